package scenarios

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
	localv1 "github.com/tandem-lb/tandem/gen/tandem/agent/local/v1"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// secretFields are the fields that the API marks as secrets, and what the test
// knows of each.
var secretFields = map[protoreflect.FullName]string{
	"tandem.v1.Vrrp.auth_password":                      "VRRP password",
	"tandem.agent.keepalived.v1.Instance.auth_password": "VRRP password",
	"tandem.v1.StatsUser.password":                      "statistics password",
	"tandem.agent.haproxy.v1.User.password_hash":        "statistics password's hash",
	"tandem.v1.JoinToken.token":                         "join token",
	"tandem.agent.v1.EnrolRequest.credential":           "join token",
	"tandem.v1.Token.secret":                            "operator token",
	"tandem.v1.BackupResponse.data":                     "CA key",
}

// inTheClear tells which files may hold which secrets, all for root alone. The
// files that operators give secrets in are outside of what is looked at.
func inTheClear(path, secret string) bool {
	for pattern, secrets := range map[string][]string{
		`/(data|restored)/(state\.db|\..*)$`:                    {"VRRP password", "statistics password's hash"},
		`/(data|restored)/(ca|\.ca)-key\.pem[.0-9]*$`:           {"CA key", "next CA key"}, // by one rename
		`/(data|restored)/\.?ca-next-key\.pem[.0-9]*$`:          {"next CA key"},
		`/(data|restored)/\.?admin\.token[.0-9]*$`:              {"operator token"},
		`/identity/\.?identity\.pem[.0-9]*$`:                    {"agent's key"},
		`/\.?(good|candidate)\.pb[.0-9]*$`:                      {"VRRP password", "statistics password's hash"},
		`keepalived.*/\.?(keepalived|candidate|check).*$`:       {"VRRP password"}, // and its dump, for an instant
		`haproxy.*/\.?(haproxy|good|candidate|check).*\.cfg.*$`: {"statistics password's hash"},
		`/lb-(master|backup)/join\.token$`:                      {"join token of a node"},
		`/\.config/lbctl/token[.0-9]*$`:                         {"operator token"}, // of lbctl login
		`/controller/curl\.header$`:                             {"operator token"}, // the test's own
	} {
		if slices.Contains(secrets, secret) && regexp.MustCompile(pattern).MatchString(path) {
			return true
		}
	}
	return false
}

// The canary test: each place that takes or makes a secret has one that can be
// recognised, and all that people and programs can see is looked through for it
// while everything is done that has to do with secrets, rightly and wrongly.
func TestI10SecretsStayWhereTheyAre(t *testing.T) {
	t.Parallel()
	everySecretFieldIsKnown(t)
	s := newSite(t)
	ctx := labtest.Deadline(t, 4*time.Minute)
	dirs := []string{s.Lab.Dir, "/tmp/keepalived.json", "/tmp/keepalived.data"}
	for _, n := range s.Nodes {
		dirs = append(dirs, n.Host.Path(n.RunDir))
	}
	own := t.TempDir()
	k := &keeper{site: s, witness: newWitness(t, own, inTheClear, dirs...), dir: own}
	k.loud(ctx)
	for _, do := range []func(context.Context){
		k.keysAndTokens, k.passwords, k.wrongPasswords, k.refusedByANode, k.requests, k.onTheNode, k.joins, k.rotationAndBackup, k.reads,
	} {
		do(ctx)
	}
	for n, text := range s.logs().texts {
		k.hears(s.logs().names[n], text)
	}
	k.testifies("/tmp", "/run", "/var/tmp", "/dev/shm")
	for _, secret := range secretFields {
		if len(k.secrets[secret]) == 0 {
			t.Errorf("no canary was planted as %s", secret)
		}
	}
	// What is looked for is found where it must be.
	for _, secret := range []string{"VRRP password", "statistics password's hash", "CA key", "next CA key", "operator token", "agent's key", "join token of a node"} {
		if !k.kept[secret] {
			t.Errorf("no file holds the %s", secret)
		}
	}
}

// everySecretFieldIsKnown fails when the API has a secret that this test does
// not plant, or a field that is named like one and not marked.
func everySecretFieldIsKnown(t *testing.T) {
	t.Helper()
	like := regexp.MustCompile(`password|secret|token|credential|passphrase|private|key`)
	public := regexp.MustCompile(`^(next_)?page_token$|^resume_token$|_set$|^tokens?$|^join_token$|^key$`)
	_ = []proto.Message{&agentv1.Hello{}, &localv1.GetStatusRequest{}} // linked in
	found := 0
	protoregistry.GlobalTypes.RangeMessages(func(m protoreflect.MessageType) bool {
		if !strings.HasPrefix(string(m.Descriptor().FullName()), "tandem.") {
			return true
		}
		for i := range m.Descriptor().Fields().Len() {
			f := m.Descriptor().Fields().Get(i)
			options, _ := f.Options().(*descriptorpb.FieldOptions)
			switch name := string(f.Name()); {
			case options.GetDebugRedact():
				if found++; secretFields[f.FullName()] == "" {
					t.Errorf("%s is a secret: plant a canary", f.FullName())
				}
			case like.MatchString(name) && !public.MatchString(name):
				t.Errorf("%s is named like a secret: mark it with debug_redact, or say here that it is none", f.FullName())
			}
		}
		return true
	})
	if found != len(secretFields) {
		t.Errorf("%d fields are secrets, want %d", found, len(secretFields))
	}
}

// keeper uses secrets, and hears what is said to that.
type keeper struct {
	*site
	*witness
	dir string
}

// canary is a secret of n letters and digits that is nobody else's.
func canary(n int) string { return strings.ToLower("cny" + rand.Text())[:n] }

// file writes a file as operators keep secrets in.
func (k *keeper) file(name, text string) string {
	k.site.t.Helper()
	path := filepath.Join(k.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		k.site.t.Fatal(err)
	}
	return path
}

// tries runs lbctl, which may fail, and hears all that it says.
func (k *keeper) tries(ctx context.Context, args ...string) error {
	out, err := k.Lbctl(ctx, args...)
	k.hears("lbctl "+strings.Join(args, " "), out)
	var failed *cluster.CommandError
	if errors.As(err, &failed) {
		k.hears("lbctl "+strings.Join(args, " "), []byte(failed.Stderr))
	}
	return err
}

func (k *keeper) does(ctx context.Context, args ...string) {
	k.site.t.Helper()
	if err := k.tries(ctx, args...); err != nil {
		k.site.t.Fatal(err)
	}
}

func (k *keeper) fails(ctx context.Context, args ...string) {
	k.site.t.Helper()
	if err := k.tries(ctx, args...); err == nil {
		k.site.t.Errorf("lbctl %v works", args)
	}
}

// loud makes everything say all that it can.
func (k *keeper) loud(ctx context.Context) {
	k.site.t.Helper()
	k.Controller.Flags = []string{"--log-level", "trace"}
	err := errors.Join(k.Controller.Kill(), k.Controller.Start(ctx))
	for _, n := range k.Nodes {
		text, e := os.ReadFile(n.Config)
		err = errors.Join(err, e, os.WriteFile(n.Config, append(text, "log_level: trace\n"...), 0o600), n.KillAgent(), n.StartAgent(ctx))
	}
	if err != nil {
		k.site.t.Fatal(err)
	}
	k.healthy(ctx)
}

// knowsKey makes the private key in a PEM file a secret, as text and as a number.
func (k *keeper) knowsKey(what, path string) {
	k.site.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		k.site.t.Fatal(err)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			k.site.t.Fatal(err)
		}
		key, ok := parsed.(*ecdsa.PrivateKey)
		if !ok {
			k.site.t.Fatalf("%s holds a %T", path, parsed)
		}
		number, err := key.Bytes()
		if err != nil {
			k.site.t.Fatal(err)
		}
		k.knows(what, string(number))
		// The lines of the file, in whose middle is the number.
		k.knows(what, base64.StdEncoding.EncodeToString(block.Bytes)[64:])
		k.knows(what, string(bytes.Split(bytes.TrimSpace(pem.EncodeToMemory(block)), []byte("\n"))[2]))
		return
	}
	k.site.t.Fatalf("%s holds no key", path)
}

func afterDot(token string) string { return token[strings.LastIndexByte(token, '.')+1:] }

// keysAndTokens makes secrets of what the product has made by itself.
func (k *keeper) keysAndTokens(ctx context.Context) {
	k.site.t.Helper()
	k.knowsKey("CA key", filepath.Join(k.Controller.DataDir(), "ca-key.pem"))
	for _, n := range k.Nodes {
		k.knowsKey("agent's key", filepath.Join(n.StateDir, "identity", "identity.pem"))
		token, err := os.ReadFile(filepath.Join(n.Host.Dir(), "join.token"))
		if err != nil {
			k.site.t.Fatal(err)
		}
		k.knows("join token of a node", strings.TrimSpace(afterDot(string(token))))
	}
	admin, err := os.ReadFile(k.Controller.TokenFile())
	if err != nil {
		k.site.t.Fatal(err)
	}
	k.knows("operator token", strings.TrimSpace(afterDot(string(admin))))
	conn, err := k.Controller.Conn()
	if err != nil {
		k.site.t.Fatal(err)
	}
	token, err := tandemv1.NewAccessServiceClient(conn).CreateToken(ctx, &tandemv1.CreateTokenRequest{Token: &tandemv1.Token{Operator: "second"}})
	if err != nil {
		k.site.t.Fatal(err)
	}
	k.knows("operator token", afterDot(token.GetSecret()))
	k.does(ctx, "status", "--token-file", k.file("second.token", token.GetSecret()))
	k.does(ctx, "login", k.Controller.GRPCAddress(), "--ca", k.Controller.CAFile(), "--token-file", filepath.Join(k.dir, "second.token"))
	for what, wrong := range map[string]string{
		"wrong.token": "tandem-operator." + canary(16) + "." + k.knows("wrong token", canary(20)), "no.token": k.knows("wrong token", canary(20)),
		"spaced.token": "tandem-operator.x." + k.knows("wrong token", canary(20)) + " " + k.knows("wrong token", canary(20)),
		"lines.token":  "tandem-operator.x." + k.knows("wrong token", canary(20)) + "\n" + k.knows("wrong token", canary(20)) + "\n",
		"join.token":   "tandem-join.x.y." + k.knows("wrong token", canary(20)),
	} {
		k.fails(ctx, "status", "--token-file", k.file(what, wrong))
	}
}
