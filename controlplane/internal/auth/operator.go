package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tandem-lb/tandem/controlplane/internal/atomicfile"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	operatorBucket = "operator-tokens"
	operatorPrefix = "tandem-operator."
	// firstOperator owns the token that the first start makes.
	firstOperator = "admin"
)

// operatorRecord is what is kept of a token.
type operatorRecord struct {
	Operator string    `json:"operator"`
	Hash     []byte    `json:"hash"`
	Create   time.Time `json:"create"`
	Expire   time.Time `json:"expire,omitzero"`
}

// Operators holds the tokens of operators. It is safe for concurrent use.
type Operators struct {
	records store.Records
	// deleting lets one Delete at a time see which token is the last. It is
	// held while the store writes; nothing else waits for it.
	deleting sync.Mutex
}

// NewOperators keeps tokens in records.
func NewOperators(records store.Records) *Operators {
	return &Operators{records: records}
}

// Bootstrap makes the first token when there is none and writes it to the file
// path, readable by its owner alone. It tells whether it did.
func (o *Operators) Bootstrap(ctx context.Context, path string) (bool, error) {
	tokens, err := o.records.List(ctx, operatorBucket)
	if err != nil || len(tokens) > 0 {
		return false, err
	}
	return true, o.CreateIn(ctx, path)
}

// CreateIn makes a token of the first operator and writes it to the file path,
// readable by its owner alone.
func (o *Operators) CreateIn(ctx context.Context, path string) error {
	secret := newCredential()
	// The file comes first: a token without its file would be lost, a file
	// without its token is replaced at the next start.
	if err := atomicfile.WriteFile(path, []byte(operatorPrefix+secret.String()+"\n"), 0o600); err != nil {
		return err
	}
	return o.put(ctx, secret, operatorRecord{Operator: firstOperator, Create: time.Now()})
}

// Create makes a token. The result alone carries the secret. A zero expire
// means never.
func (o *Operators) Create(ctx context.Context, operator string, expire time.Time) (*tandemv1.Token, error) {
	secret := newCredential()
	record := operatorRecord{Operator: operator, Create: time.Now(), Expire: expire}
	if err := o.put(ctx, secret, record); err != nil {
		return nil, err
	}
	token := record.token(secret.id)
	token.Secret = operatorPrefix + secret.String()
	return token, nil
}

func (o *Operators) put(ctx context.Context, secret credential, record operatorRecord) error {
	record.Hash = secret.hash()
	return create(ctx, o.records, operatorBucket, secret.id, record)
}

// Authenticate returns the operator whose token text is. The error is
// ErrInvalid when it is nobody's.
func (o *Operators) Authenticate(ctx context.Context, text string) (string, error) {
	rest, ok := strings.CutPrefix(text, operatorPrefix)
	if !ok {
		return "", fmt.Errorf("%w: an operator token begins with %s", ErrInvalid, operatorPrefix)
	}
	secret, ok := parseCredential(rest)
	if !ok {
		return "", ErrInvalid
	}
	record, err := load[operatorRecord](ctx, o.records, operatorBucket, secret.id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return "", err
	}
	if !secret.matches(record.Hash) {
		return "", ErrInvalid
	}
	if ended(record.Expire) {
		return "", fmt.Errorf("%w: it expired at %s", ErrInvalid, record.Expire.UTC().Format(time.RFC3339))
	}
	return record.Operator, nil
}

// List returns the tokens without their secrets, the oldest first.
func (o *Operators) List(ctx context.Context) ([]*tandemv1.Token, error) {
	values, err := o.records.List(ctx, operatorBucket)
	if err != nil {
		return nil, err
	}
	tokens := make([]*tandemv1.Token, 0, len(values))
	for id, value := range values {
		record, err := decode[operatorRecord](operatorBucket, id, value)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, record.token(id))
	}
	slices.SortFunc(tokens, func(a, b *tandemv1.Token) int {
		return cmp.Or(a.CreateTime.AsTime().Compare(b.CreateTime.AsTime()), cmp.Compare(a.Name, b.Name))
	})
	return tokens, nil
}

// Delete ends the token with an id. The error is ErrNotFound or ErrLast.
func (o *Operators) Delete(ctx context.Context, id string) error {
	o.deleting.Lock()
	defer o.deleting.Unlock()
	tokens, err := o.List(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(tokens, func(t *tandemv1.Token) bool { return t.GetName() == tokenName(id) })
	if i < 0 {
		return ErrNotFound
	}
	endless := func(t *tandemv1.Token) bool { return t.GetExpireTime() == nil }
	if endless(tokens[i]) && !slices.ContainsFunc(slices.Delete(tokens, i, i+1), endless) {
		return ErrLast
	}
	return o.records.Delete(ctx, operatorBucket, id)
}

func (r operatorRecord) token(id string) *tandemv1.Token {
	token := &tandemv1.Token{
		Name:       tokenName(id),
		Operator:   r.Operator,
		CreateTime: timestamppb.New(r.Create),
	}
	if !r.Expire.IsZero() {
		token.ExpireTime = timestamppb.New(r.Expire)
	}
	return token
}

func tokenName(id string) string { return "tokens/" + id }
