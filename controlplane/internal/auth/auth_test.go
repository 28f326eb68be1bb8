package auth_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandem-lb/tandem/controlplane/internal/auth"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
)

func records(t *testing.T) store.Store {
	t.Helper()
	s, err := bolt.Open(filepath.Join(t.TempDir(), "state.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestBootstrapMakesOneTokenOnce(t *testing.T) {
	operators := auth.NewOperators(records(t))
	path := filepath.Join(t.TempDir(), "admin.token")
	if made, err := operators.Bootstrap(t.Context(), path); err != nil || !made {
		t.Fatalf("first start: %v, %v; want a token", made, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	operator, err := operators.Authenticate(t.Context(), strings.TrimSpace(string(text)))
	if err != nil || operator != "admin" {
		t.Errorf("the token is %q's, %v; want admin's", operator, err)
	}
	if made, err := operators.Bootstrap(t.Context(), path); err != nil || made {
		t.Errorf("second start: %v, %v; want no token", made, err)
	}
	if again, err := os.ReadFile(path); err != nil || string(again) != string(text) {
		t.Errorf("the second start changed the file: %v", err)
	}
}

func TestAuthenticateRefusesWhatIsNoToken(t *testing.T) {
	s := records(t)
	operators := auth.NewOperators(s)
	token, err := operators.Create(t.Context(), "alice", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	join, err := auth.NewJoinTokens(s, hashOf([32]byte{})).Create(t.Context(), auth.Order{Operator: "alice", Cluster: "default", Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	good := token.GetSecret()
	for name, text := range map[string]string{
		"empty": "", "id alone": good[:strings.LastIndex(good, ".")], "no secret": good[:strings.LastIndex(good, ".")+1],
		"one character less": good[:len(good)-1], "one more": good + "A", "join token": join.GetToken(),
		"no prefix": strings.TrimPrefix(good, "tandem-operator."), "unknown id": "tandem-operator.nobody." + good[strings.LastIndex(good, ".")+1:],
	} {
		if operator, err := operators.Authenticate(t.Context(), text); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("%s: %q, %v; want ErrInvalid", name, operator, err)
		}
	}
	if operator, err := operators.Authenticate(t.Context(), good); err != nil || operator != "alice" {
		t.Errorf("the right one: %q, %v", operator, err)
	}
}

func TestTokensAreKeptAsHashes(t *testing.T) {
	dir := t.TempDir()
	s, err := bolt.Open(filepath.Join(dir, "state.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := auth.NewOperators(s).Create(t.Context(), "alice", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	join, err := auth.NewJoinTokens(s, hashOf([32]byte{})).Create(t.Context(), auth.Order{Operator: "alice", Cluster: "default", Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(file), "alice") {
		t.Error("the test looks into the wrong file")
	}
	for _, text := range []string{token.GetSecret(), join.GetToken()} {
		if strings.Contains(string(file), text[strings.LastIndex(text, ".")+1:]) {
			t.Error("a secret is in the file")
		}
	}
}

func TestOperatorTokenExpires(t *testing.T) {
	s := records(t)
	synctest.Test(t, func(t *testing.T) {
		operators := auth.NewOperators(s)
		token, err := operators.Create(t.Context(), "alice", time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour - time.Second)
		if _, err := operators.Authenticate(t.Context(), token.GetSecret()); err != nil {
			t.Errorf("a second before its end: %v", err)
		}
		<-time.After(time.Second)
		if _, err := operators.Authenticate(t.Context(), token.GetSecret()); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("at its end: %v; want ErrInvalid", err)
		}
	})
}

func TestDeleteKeepsTheLastEndlessToken(t *testing.T) {
	operators := auth.NewOperators(records(t))
	expiring, err := operators.Create(t.Context(), "bob", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	endless, err := operators.Create(t.Context(), "alice", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	id := func(name string) string { return strings.TrimPrefix(name, "tokens/") }
	if err := operators.Delete(t.Context(), id(endless.GetName())); !errors.Is(err, auth.ErrLast) {
		t.Errorf("the last endless one: %v; want ErrLast", err)
	}
	if err := operators.Delete(t.Context(), "nobody"); !errors.Is(err, auth.ErrNotFound) {
		t.Errorf("an unknown one: %v; want ErrNotFound", err)
	}
	if err := operators.Delete(t.Context(), id(expiring.GetName())); err != nil {
		t.Errorf("an expiring one: %v", err)
	}
	if _, err := operators.Authenticate(t.Context(), expiring.GetSecret()); !errors.Is(err, auth.ErrInvalid) {
		t.Errorf("a deleted token: %v; want ErrInvalid", err)
	}
	if _, err := operators.Create(t.Context(), "carol", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := operators.Delete(t.Context(), id(endless.GetName())); err != nil {
		t.Errorf("with another endless one: %v", err)
	}
	tokens, err := operators.List(t.Context())
	if err != nil || len(tokens) != 1 || tokens[0].GetOperator() != "carol" || tokens[0].GetSecret() != "" {
		t.Errorf("left: %v, %v; want carol's without its secret", tokens, err)
	}
}

func hashOf(hash [32]byte) func() [32]byte { return func() [32]byte { return hash } }

// credential is what an agent sends of a token.
func credential(t *testing.T, token string, caHash [32]byte) string {
	t.Helper()
	rest, ok := strings.CutPrefix(token, "tandem-join."+base64.RawURLEncoding.EncodeToString(caHash[:])+".")
	if !ok {
		t.Fatalf("a token of another form: %d characters", len(token))
	}
	return rest
}

func TestJoinTokenIsGoodOnceUnder100ConcurrentUses(t *testing.T) {
	hash := sha256.Sum256([]byte("ca"))
	tokens := auth.NewJoinTokens(records(t), hashOf(hash))
	token, err := tokens.Create(t.Context(), auth.Order{Operator: "alice", Cluster: "default", Node: "lb-master"})
	if err != nil {
		t.Fatal(err)
	}
	shown := credential(t, token.GetToken(), hash)
	var good, refused atomic.Int32
	var uses sync.WaitGroup
	begin := make(chan struct{})
	for i := range 100 {
		uses.Go(func() {
			<-begin
			grant, err := tokens.Redeem(t.Context(), "lb-master", shown, fmt.Appendf(nil, "key %d", i))
			switch {
			case err == nil && grant.Cluster == "default" && grant.Operator == "alice":
				good.Add(1)
			case errors.Is(err, auth.ErrInvalid):
				refused.Add(1)
			default:
				t.Errorf("unexpected: %+v, %v", grant, err)
			}
		})
	}
	close(begin)
	uses.Wait()
	if good.Load() != 1 || refused.Load() != 99 {
		t.Errorf("%d uses succeeded, %d were refused; want 1 and 99", good.Load(), refused.Load())
	}
}

func TestJoinTokenIsBoundToItsNode(t *testing.T) {
	hash := sha256.Sum256([]byte("ca"))
	tokens := auth.NewJoinTokens(records(t), hashOf(hash))
	token, err := tokens.Create(t.Context(), auth.Order{Operator: "alice", Cluster: "default", Node: "lb-master"})
	if err != nil {
		t.Fatal(err)
	}
	shown := credential(t, token.GetToken(), hash)
	for name, use := range map[string]struct{ node, credential string }{
		"another node": {"lb-backup", shown}, "no node": {"", shown},
		"wrong secret": {"lb-master", shown + "A"}, "empty": {"lb-master", ""}, "no secret": {"lb-master", shown[:strings.Index(shown, ".")+1]},
	} {
		if _, err := tokens.Redeem(t.Context(), use.node, use.credential, []byte("key")); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("%s: %v; want ErrInvalid", name, err)
		}
	}
	grant, err := tokens.Redeem(t.Context(), "lb-master", shown, []byte("key"))
	if err != nil {
		t.Fatalf("refused uses have used the token up: %v", err)
	}
	if _, err := tokens.Redeem(t.Context(), "lb-master", shown, []byte("another")); !errors.Is(err, auth.ErrInvalid) {
		t.Errorf("second use: %v; want ErrInvalid", err)
	}
	if err := tokens.Return(t.Context(), grant); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Redeem(t.Context(), "lb-master", shown, []byte("another")); err != nil {
		t.Errorf("after its return: %v", err)
	}
}

// An answer may get lost: the same key gets the same identity, for a while.
func TestARepeatedUseGivesTheSame(t *testing.T) {
	s := records(t)
	hash := sha256.Sum256([]byte("ca"))
	synctest.Test(t, func(t *testing.T) {
		tokens := auth.NewJoinTokens(s, hashOf(hash))
		token, err := tokens.Create(t.Context(), auth.Order{Operator: "alice", Cluster: "default", Node: "lb-master", Replaces: "old", TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		shown := credential(t, token.GetToken(), hash)
		use := func(node, key string) (*auth.Grant, error) {
			return tokens.Redeem(t.Context(), node, shown, []byte(key))
		}
		first, err := use("lb-master", "key")
		if err != nil || first.Joined || first.Replaces != "old" {
			t.Fatalf("%+v, %v; want the first use", first, err)
		}
		<-time.After(2 * time.Minute) // its own end does not count any more
		again, err := use("lb-master", "key")
		if err != nil || again.UID != first.UID || again.Joined {
			t.Errorf("a repeat gives %+v, %v; want the same, not joined yet", again, err)
		}
		for _, g := range []*auth.Grant{first, again} {
			if err := tokens.Joined(t.Context(), g); err != nil {
				t.Fatal(err)
			}
		}
		if again, err = use("lb-master", "key"); err != nil || again.UID != first.UID || !again.Joined {
			t.Errorf("a repeat gives %+v, %v; want the same, joined", again, err)
		}
		if err := tokens.Return(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		for _, other := range []struct{ node, key string }{{"lb-master", "another"}, {"lb-backup", "key"}} {
			if g, err := use(other.node, other.key); !errors.Is(err, auth.ErrInvalid) {
				t.Errorf("%v: %+v, %v; want ErrInvalid", other, g, err)
			}
		}
		<-time.After(8 * time.Minute)
		if g, err := use("lb-master", "key"); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("ten minutes later: %+v, %v; want ErrInvalid", g, err)
		}
	})
}

// As long as it is not known that the node has joined, the token is good for its
// key.
func TestAnUnfinishedUseIsRepeatedToTheTokensEnd(t *testing.T) {
	s := records(t)
	hash := sha256.Sum256([]byte("ca"))
	synctest.Test(t, func(t *testing.T) {
		tokens := auth.NewJoinTokens(s, hashOf(hash))
		token, err := tokens.Create(t.Context(), auth.Order{Operator: "alice", Cluster: "default", Node: "lb-master", TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		shown := credential(t, token.GetToken(), hash)
		first, err := tokens.Redeem(t.Context(), "lb-master", shown, []byte("key"))
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(59 * time.Minute)
		if _, err := tokens.Create(t.Context(), auth.Order{Operator: "alice", Cluster: "default", Node: "lb-backup"}); err != nil { // which sweeps
			t.Fatal(err)
		}
		if again, err := tokens.Redeem(t.Context(), "lb-master", shown, []byte("key")); err != nil || again.UID != first.UID {
			t.Errorf("%+v, %v; want the same grant", again, err)
		}
		if _, err := tokens.Redeem(t.Context(), "lb-master", shown, []byte("another")); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("another key: %v; want ErrInvalid", err)
		}
		<-time.After(2 * time.Minute)
		if _, err := tokens.Redeem(t.Context(), "lb-master", shown, []byte("key")); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("after the token's end: %v; want ErrInvalid", err)
		}
	})
}

func TestJoinTokenExpiresAndIsSwept(t *testing.T) {
	s := records(t)
	hash := sha256.Sum256([]byte("ca"))
	synctest.Test(t, func(t *testing.T) {
		tokens := auth.NewJoinTokens(s, hashOf(hash))
		create := func(node string, ttl time.Duration) string {
			token, err := tokens.Create(t.Context(), auth.Order{Operator: "alice", Cluster: "default", Node: node, TTL: ttl})
			if err != nil {
				t.Fatal(err)
			}
			return credential(t, token.GetToken(), hash)
		}
		late, used := create("lb-master", time.Minute), create("lb-backup", time.Hour)
		if grant, err := tokens.Redeem(t.Context(), "lb-backup", used, []byte("key")); err != nil || tokens.Joined(t.Context(), grant) != nil {
			t.Fatal(grant, err)
		}
		<-time.After(time.Minute)
		if _, err := tokens.Redeem(t.Context(), "lb-master", late, []byte("key")); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("after its end: %v; want ErrInvalid", err)
		}
		create("lb-third", 0)
		if left, err := s.List(t.Context(), "join-tokens"); err != nil || len(left) != 2 {
			t.Errorf("%d tokens are kept, %v; want the one that is good and the one just used", len(left), err)
		}
		<-time.After(10 * time.Minute)
		create("lb-fourth", 0)
		if left, err := s.List(t.Context(), "join-tokens"); err != nil || len(left) != 2 {
			t.Errorf("%d tokens are kept, %v; want the two that are good", len(left), err)
		}
	})
}

// A record that cannot be read is good for no join, and keeps nobody from making
// tokens or from removing a node.
func TestADamagedJoinTokenIsInNobodysWay(t *testing.T) {
	s := records(t)
	hash := sha256.Sum256([]byte("ca"))
	tokens := auth.NewJoinTokens(s, hashOf(hash))
	order := auth.Order{Operator: "alice", Cluster: "default", Node: "lb-master"}
	token, err := tokens.Create(t.Context(), order)
	if err != nil {
		t.Fatal(err)
	}
	shown := credential(t, token.GetToken(), hash)
	id, _, _ := strings.Cut(shown, ".")
	if err := s.Put(t.Context(), "join-tokens", id, []byte("{")); err != nil {
		t.Fatal(err)
	}
	if grant, err := tokens.Redeem(t.Context(), "lb-master", shown, []byte("key")); err == nil {
		t.Errorf("it gives %+v", grant)
	}
	if err := tokens.Leaves(t.Context(), "uid"); err != nil {
		t.Errorf("a node cannot leave: %v", err)
	}
	if _, err := tokens.Create(t.Context(), order); err != nil {
		t.Errorf("no other token can be made: %v", err)
	}
}
