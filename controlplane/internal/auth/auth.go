// Package auth knows who may call: operators by bearer tokens, joining agents
// by one-time tokens. Both are kept as hashes only. docs/security.md describes
// the formats.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/store"
)

var (
	// ErrInvalid is returned for a token that is not one, is not known, or has
	// ended.
	ErrInvalid = errors.New("token is not valid")
	// ErrNotFound is returned for an id without a token.
	ErrNotFound = errors.New("no such token")
	// ErrLast is returned when the last operator token that never expires would
	// be deleted.
	ErrLast = errors.New("the last token that never expires cannot be deleted: make another one first")
)

// credential is the id of a token and its secret, "<id>.<secret>" as text. The
// secret is 256 random bits, so a plain hash of it gives nothing away.
type credential struct {
	id     string
	secret string
}

func newCredential() credential {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails
	return credential{
		id:     strings.ToLower(rand.Text()[:16]),
		secret: base64.RawURLEncoding.EncodeToString(secret),
	}
}

func parseCredential(text string) (credential, bool) {
	id, secret, ok := strings.Cut(text, ".")
	return credential{id: id, secret: secret}, ok && id != "" && secret != ""
}

func (c credential) String() string { return c.id + "." + c.secret }

func (c credential) hash() []byte {
	sum := sha256.Sum256([]byte(c.secret))
	return sum[:]
}

// ended tells whether an expiry has passed; the zero time never passes.
func ended(expire time.Time) bool {
	return !expire.IsZero() && !time.Now().Before(expire)
}

// matches compares in constant time.
func (c credential) matches(hash []byte) bool {
	return subtle.ConstantTimeCompare(c.hash(), hash) == 1
}

// load reads one record. The error is store.ErrNotFound when there is none.
func load[T any](ctx context.Context, records store.Records, bucket, key string) (record T, err error) {
	value, err := records.Get(ctx, bucket, key)
	if err != nil {
		return record, err
	}
	return decode[T](bucket, key, value)
}

func decode[T any](bucket, key string, value []byte) (record T, err error) {
	if err := json.Unmarshal(value, &record); err != nil {
		return record, fmt.Errorf("%s record %s: %w", bucket, key, err)
	}
	return record, nil
}

func create(ctx context.Context, records store.Records, bucket, key string, record any) error {
	value, err := json.Marshal(record)
	if err != nil {
		return err
	}
	return records.Create(ctx, bucket, key, value)
}
