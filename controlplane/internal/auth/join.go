package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/store"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	joinBucket = store.Once
	joinPrefix = "tandem-join."
	// joinLifetime is a join token's life when none is asked for.
	joinLifetime = 24 * time.Hour
	// repeatable is how long the one use of a token may be repeated, at least.
	repeatable = 10 * time.Minute
)

var (
	errUsed = fmt.Errorf("%w: it is not known here or has been used", ErrInvalid)
	// errMoved means that another use of the token was faster: look again.
	errMoved = errors.New("the token has changed meanwhile")
)

// joinRecord is what is kept of a join token.
type joinRecord struct {
	Cluster  string    `json:"cluster"`
	Node     string    `json:"node"`
	Operator string    `json:"operator"`
	Hash     []byte    `json:"hash"`
	Expire   time.Time `json:"expire"`
	// Replaces is the uid of the node whose place the machine takes; empty: the
	// node is a new one.
	Replaces string `json:"replaces,omitempty"`
	Use      *use   `json:"use,omitempty"`
}

// use is what the one use of a token gave, so that a repeat gives the same.
type use struct {
	Key    []byte    `json:"key"` // SHA-256 of the public key that was shown
	UID    string    `json:"uid"`
	Time   time.Time `json:"time"`
	Joined bool      `json:"joined,omitempty"` // the node has become a member
}

// end is when a token is of no use any more. One whose node has not become a
// member, as far as is known, is good for its one key as long as it is for any.
func (r *joinRecord) end() time.Time {
	if r.Use == nil {
		return r.Expire
	}
	end := r.Use.Time.Add(repeatable)
	if !r.Use.Joined && r.Expire.After(end) {
		end = r.Expire
	}
	return end
}

// repeated tells whether showing a key now is the one use once more.
func (r *joinRecord) repeated(key []byte) bool {
	return bytes.Equal(r.Use.Key, key) && !ended(r.end())
}

// Grant is what a join token gave to the agent that used it up.
type Grant struct {
	// Cluster that the node joins.
	Cluster string
	// UID is the node's new identity.
	UID string
	// Replaces is the uid of the node whose place the machine takes, or empty.
	Replaces string
	// Operator who made the token.
	Operator string
	// Joined tells that this is a repeat, and that the node became a member.
	Joined bool

	id     string
	record joinRecord
	text   []byte // of record, as it is stored
}

// JoinTokens holds the one-time tokens of joining agents. It is safe for
// concurrent use.
type JoinTokens struct {
	records store.Records
	caHash  func() [sha256.Size]byte
}

// NewJoinTokens keeps tokens in records. caHash returns SHA-256 of the
// SubjectPublicKeyInfo of the CA that issues, which the tokens carry.
func NewJoinTokens(records store.Records, caHash func() [sha256.Size]byte) *JoinTokens {
	return &JoinTokens{records: records, caHash: caHash}
}

// Order says what a join token is to be good for.
type Order struct {
	// Operator who makes it.
	Operator string
	// Cluster and Node are the ids of the one node that it is for.
	Cluster, Node string
	// Replaces is the uid of the node whose place the machine takes; empty: the
	// node is a new one.
	Replaces string
	// TTL within which it can be used; 0 means a day.
	TTL time.Duration
}

// Create makes a token. The result alone carries the secret.
func (j *JoinTokens) Create(ctx context.Context, o Order) (*tandemv1.JoinToken, error) {
	if err := j.sweep(ctx); err != nil {
		return nil, err
	}
	if o.TTL == 0 {
		o.TTL = joinLifetime
	}
	secret, caHash := newCredential(), j.caHash()
	record := joinRecord{
		Cluster: o.Cluster, Node: o.Node, Operator: o.Operator, Replaces: o.Replaces,
		Hash: secret.hash(), Expire: time.Now().Add(o.TTL),
	}
	if err := create(ctx, j.records, joinBucket, secret.id, record); err != nil {
		return nil, err
	}
	return &tandemv1.JoinToken{
		Name:       "clusters/" + o.Cluster + "/joinTokens/" + secret.id,
		Node:       o.Node,
		Token:      joinPrefix + base64.RawURLEncoding.EncodeToString(caHash[:]) + "." + secret.String(),
		ExpireTime: timestamppb.New(record.Expire),
		Replace:    o.Replaces != "",
	}, nil
}

// Redeem uses up the token whose credential, "<id>.<secret>", an agent shows for
// a node together with a public key, of which key is the SHA-256. The error is
// ErrInvalid when the token is not known, used, ended or another node's; only
// its own node uses it up. Of concurrent calls with different keys one
// succeeds. A repeat with the same key gives the same grant for ten minutes, as
// the first answer may have been lost, and as long as the token is good while the
// node is not known to have joined.
func (j *JoinTokens) Redeem(ctx context.Context, node, text string, key []byte) (*Grant, error) {
	secret, ok := parseCredential(text)
	if !ok {
		return nil, ErrInvalid
	}
	for {
		grant, err := j.redeem(ctx, node, secret, key)
		if !errors.Is(err, errMoved) {
			return grant, err
		}
	}
}

func (j *JoinTokens) redeem(ctx context.Context, node string, secret credential, key []byte) (*Grant, error) {
	value, err := j.records.Get(ctx, joinBucket, secret.id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	var record joinRecord
	if err == nil {
		if record, err = decode[joinRecord](joinBucket, secret.id, value); err != nil {
			return nil, err
		}
	}
	switch {
	case !secret.matches(record.Hash):
		return nil, errUsed
	case record.Node != node:
		return nil, fmt.Errorf("%w: it is for node %s, not for %q", ErrInvalid, record.Node, node)
	case record.Use != nil && record.repeated(key):
		return record.grant(secret.id, value), nil
	case record.Use != nil:
		return nil, errUsed
	case ended(record.Expire):
		return nil, fmt.Errorf("%w: it expired at %s", ErrInvalid, record.Expire.UTC().Format(time.RFC3339))
	}
	record.Use = &use{Key: key, UID: uuid.NewString(), Time: time.Now()}
	after, err := j.swap(ctx, secret.id, value, record)
	if err != nil {
		return nil, err
	}
	return record.grant(secret.id, after), nil
}

func (r joinRecord) grant(id string, text []byte) *Grant {
	return &Grant{
		Cluster: r.Cluster, UID: r.Use.UID, Replaces: r.Replaces, Operator: r.Operator, Joined: r.Use.Joined,
		id: id, record: r, text: text,
	}
}

// swap stores a record in place of old and returns it as it is stored.
func (j *JoinTokens) swap(ctx context.Context, id string, old []byte, record joinRecord) ([]byte, error) {
	value, err := json.Marshal(record)
	if err != nil {
		return nil, err
	}
	err = j.records.Swap(ctx, joinBucket, id, old, value)
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		return nil, errMoved
	}
	return value, err
}

// Joined notes that the node of a grant has become a member: a repeat does not
// make it one again, should it be removed. Of several that say so one is enough.
func (j *JoinTokens) Joined(ctx context.Context, g *Grant) error {
	record, used := g.record, *g.record.Use
	used.Joined = true
	record.Use = &used
	return j.settle(ctx, g, record)
}

// Leaves notes that the node with an identity, a member, is about to be removed:
// no repeat of its join makes it one again, though the join itself was not noted.
func (j *JoinTokens) Leaves(ctx context.Context, uid string) error {
	values, err := j.records.List(ctx, joinBucket)
	if err != nil {
		return err
	}
	for id, value := range values {
		record, err := decode[joinRecord](joinBucket, id, value)
		if err != nil {
			continue // no join is made with it
		}
		if record.Use == nil || record.Use.UID != uid || record.Use.Joined {
			continue
		}
		if err := j.Joined(ctx, record.grant(id, value)); err != nil {
			return err
		}
	}
	return nil
}

// Return makes the token of a grant good again, when the node could not join
// after all.
func (j *JoinTokens) Return(ctx context.Context, g *Grant) error {
	record := g.record
	record.Use = nil
	return j.settle(ctx, g, record)
}

func (j *JoinTokens) settle(ctx context.Context, g *Grant, record joinRecord) error {
	_, err := j.swap(ctx, g.id, g.text, record)
	if errors.Is(err, errMoved) {
		return nil // a repeat has settled it
	}
	return err
}

// sweep forgets tokens that have ended, and used ones of which no repeat counts.
// One whose record cannot be read is left: nobody can use it.
func (j *JoinTokens) sweep(ctx context.Context) error {
	values, err := j.records.List(ctx, joinBucket)
	if err != nil {
		return err
	}
	for id, value := range values {
		record, err := decode[joinRecord](joinBucket, id, value)
		if err != nil || !ended(record.end()) {
			continue
		}
		if err := j.records.Delete(ctx, joinBucket, id); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}
