package auth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/store"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	joinBucket = "join-tokens"
	joinPrefix = "tandem-join."
	// joinLifetime is a join token's life when none is asked for.
	joinLifetime = 24 * time.Hour
)

var errUsed = fmt.Errorf("%w: it is not known here or has been used", ErrInvalid)

// joinRecord is what is kept of a join token.
type joinRecord struct {
	Cluster  string    `json:"cluster"`
	Node     string    `json:"node"`
	Operator string    `json:"operator"`
	Hash     []byte    `json:"hash"`
	Expire   time.Time `json:"expire"`
}

// Grant is what a join token gave to the agent that used it up.
type Grant struct {
	// Cluster that the node joins.
	Cluster string
	// Operator who made the token.
	Operator string

	id     string
	record joinRecord
}

// JoinTokens holds the one-time tokens of joining agents. It is safe for
// concurrent use.
type JoinTokens struct {
	records store.Records
	caHash  [sha256.Size]byte
}

// NewJoinTokens keeps tokens in records. caHash is SHA-256 of the authority's
// SubjectPublicKeyInfo, which the tokens carry.
func NewJoinTokens(records store.Records, caHash [sha256.Size]byte) *JoinTokens {
	return &JoinTokens{records: records, caHash: caHash}
}

// Create makes a token by an operator for one node of a cluster, good for one
// use within ttl; 0 means a day. The result alone carries the secret.
func (j *JoinTokens) Create(ctx context.Context, operator, cluster, node string, ttl time.Duration) (*tandemv1.JoinToken, error) {
	if err := j.sweep(ctx); err != nil {
		return nil, err
	}
	if ttl == 0 {
		ttl = joinLifetime
	}
	secret := newCredential()
	record := joinRecord{
		Cluster: cluster, Node: node, Operator: operator,
		Hash: secret.hash(), Expire: time.Now().Add(ttl),
	}
	if err := create(ctx, j.records, joinBucket, secret.id, record); err != nil {
		return nil, err
	}
	return &tandemv1.JoinToken{
		Name:       "clusters/" + cluster + "/joinTokens/" + secret.id,
		Node:       node,
		Token:      joinPrefix + base64.RawURLEncoding.EncodeToString(j.caHash[:]) + "." + secret.String(),
		ExpireTime: timestamppb.New(record.Expire),
	}, nil
}

// Redeem uses up the token whose credential, "<id>.<secret>", an agent shows for
// a node. The error is ErrInvalid when the
// token is not known, used, ended or another node's; only its own node uses it
// up. Of concurrent calls one succeeds.
func (j *JoinTokens) Redeem(ctx context.Context, node, text string) (*Grant, error) {
	secret, ok := parseCredential(text)
	if !ok {
		return nil, ErrInvalid
	}
	record, err := load[joinRecord](ctx, j.records, joinBucket, secret.id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if !secret.matches(record.Hash) {
		return nil, errUsed
	}
	if record.Node != node {
		return nil, fmt.Errorf("%w: it is for node %s, not for %q", ErrInvalid, record.Node, node)
	}
	if ended(record.Expire) {
		return nil, fmt.Errorf("%w: it expired at %s", ErrInvalid, record.Expire.UTC().Format(time.RFC3339))
	}
	_, err = j.records.Take(ctx, joinBucket, secret.id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, errUsed
	case err != nil:
		return nil, err
	}
	return &Grant{Cluster: record.Cluster, Operator: record.Operator, id: secret.id, record: record}, nil
}

// Return makes the token of a grant good again, when the node could not join
// after all.
func (j *JoinTokens) Return(ctx context.Context, g *Grant) error {
	return create(ctx, j.records, joinBucket, g.id, g.record)
}

// sweep forgets tokens that have ended.
func (j *JoinTokens) sweep(ctx context.Context) error {
	values, err := j.records.List(ctx, joinBucket)
	if err != nil {
		return err
	}
	for id, value := range values {
		record, err := decode[joinRecord](joinBucket, id, value)
		if err != nil {
			return err
		}
		if !ended(record.Expire) {
			continue
		}
		if err := j.records.Delete(ctx, joinBucket, id); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}
