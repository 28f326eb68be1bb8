package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"

	"google.golang.org/grpc/codes"

	"github.com/tandem-lb/tandem/controlplane/internal/ledger"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
)

// defaultPage is the size of a page of resources when none is asked for.
const defaultPage = 1000

var errPageToken = fail(codes.InvalidArgument, reasonPageTokenInvalid, "page_token must be the next_page_token of the same list")

// pageToken says where a list goes on. All pages come from one revision.
type pageToken struct {
	Collection string `json:"c"`
	Epoch      string `json:"e"`
	Revision   uint64 `json:"r"`
	Offset     int    `json:"o"`
}

// pageRequest is what all requests for a page of resources have.
type pageRequest interface {
	GetParent() string
	GetPageSize() int32
	GetPageToken() string
}

// page returns one page of the resources in a parent, as users see them, and
// the token of the next. all picks the parent's whole collection.
func page[T any](l *ledger.Ledger, n noun[T], r pageRequest, all func(*state.Config, state.Name) []*T) ([]*T, string, error) {
	parent, err := parse(r.GetParent(), n.parent, "parent")
	if err != nil {
		return nil, "", err
	}
	config, err := l.Head(parent.Cluster)
	if err != nil {
		return nil, "", err
	}
	at := pageToken{Collection: n.kind.String() + "@" + parent.String(), Epoch: config.Epoch(), Revision: config.Revision()}
	if r.GetPageToken() != "" {
		if config, err = resume(l, config, &at, r.GetPageToken()); err != nil {
			return nil, "", err
		}
	}
	if n.parent == state.KindPool {
		if _, err := found(config.Pool(parent.ID), parent); err != nil {
			return nil, "", err
		}
	}
	items := all(config, parent)
	size := int(r.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	begin := min(at.Offset, len(items))
	end := min(begin+size, len(items))
	shown := make([]*T, 0, end-begin)
	for _, item := range items[begin:end] {
		shown = append(shown, n.show(config, item))
	}
	if end == len(items) {
		return shown, "", nil
	}
	at.Offset = end
	return shown, encodeToken(at), nil
}

// resume returns the configuration that a token belongs to, and moves at to
// where the token says.
func resume(l *ledger.Ledger, head *state.Config, at *pageToken, text string) (*state.Config, error) {
	collection := at.Collection
	if err := decodeToken(text, at); err != nil || at.Offset < 0 || at.Collection != collection {
		return nil, errPageToken
	}
	pinned, err := l.At(head.ID(), at.Revision)
	if errors.Is(err, ledger.ErrRevisionGone) || at.Epoch != head.Epoch() {
		return nil, fail(codes.InvalidArgument, reasonPageTokenExpired, "the pages of revision %d are no longer kept: list again from the first page", at.Revision)
	}
	return pinned, err
}

// Tokens are opaque: JSON in base64url.
func encodeToken(token any) string {
	text, err := json.Marshal(token)
	if err != nil {
		return "" // plain structs always marshal
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func decodeToken(text string, token any) error {
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return err
	}
	return json.Unmarshal(decoded, token)
}

// before reads the token of a list that goes backward by number; 0: from the
// newest.
func before(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	var number uint64
	if err := decodeToken(text, &number); err != nil || number == 0 {
		return 0, errPageToken
	}
	return number, nil
}

// backward returns the size to ask for, one more than the page, so that its end
// is known.
func backward(size int32) (page, ask int) {
	page = int(size)
	if page == 0 {
		page = 50
	}
	return page, page + 1
}
