package scenarios

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/bench/guide"
	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/internal/cluster/clustertest"
	"github.com/tandem-lb/tandem/e2e/internal/handmade"
	"github.com/tandem-lb/tandem/e2e/lab"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// What an administrator has added by hand; each CANARY is a secret.
const byHand = `
userlist ops
    user alice insecure-password CANARY

backend checked
    option httpchk GET /health
    http-check send hdr Authorization "Bearer CANARY"
    http-request set-header Authorization "Basic CANARY"
    server web1 192.168.1.20:80 check

listen byhand
    bind *:8405
    http-request auth realm ops if !{ http_auth(ops) }
    default_backend checked
`

// The secrets of hand-written files go with the files: to those that the daemons
// read, and nowhere else.
func TestI10SecretsOfHandWrittenFilesStay(t *testing.T) {
	t.Parallel()
	secrets := map[string][]string{"hand-written VRRP password": {canary(13)}}
	vrrp := secrets["hand-written VRRP password"][0]
	secrets["hand-written VRRP password"] = append(secrets["hand-written VRRP password"], vrrp[:8]) // as keepalived cuts it
	stats := canary(20)
	secrets["hand-written statistics password"] = []string{stats}
	added := regexp.MustCompile("CANARY").ReplaceAllStringFunc(byHand, func(string) string {
		secret := canary(20)
		secrets["hand-written secret"] = append(secrets["hand-written secret"], secret)
		return secret
	})
	p := newPair(t, guide.Spec(), func(ctx context.Context, l *lab.Lab) error {
		held, err := guide.Start(ctx, l)
		if err != nil {
			return err
		}
		for _, node := range clustertest.Both {
			err = errors.Join(err, edit(l.Host(node), "haproxy", syscall.SIGUSR2, handmade.HAProxyFile, "password123", stats, added),
				edit(l.Host(node), "keepalived", syscall.SIGHUP, handmade.KeepalivedFile, "mypassword123", vrrp, ""))
		}
		return errors.Join(err, held.Held(ctx, cluster.Master))
	}, lab.VIP.Addr())
	dirs := []string{p.Lab.Dir}
	for _, n := range p.Nodes {
		dirs = append(dirs, n.Host.Path(n.RunDir))
	}
	may := regexp.MustCompile(`/etc/(haproxy|keepalived)/|/state/(haproxy|keepalived)/|/\.?(good|candidate)\.pb|/controller/data/|/(cluster\.yaml|peer\.conf)$|/run/keepalived\.json$`) // the last is a dump, for an instant
	w := newWitness(t, t.TempDir(), func(path, _ string) bool { return may.MatchString(path) }, dirs...)
	for what, all := range secrets {
		for _, secret := range all {
			w.knows(what, secret)
		}
	}
	p.heard = w.hears
	ctx := labtest.Deadline(t, 90*time.Second)
	lbctl := func(args ...string) {
		t.Helper()
		out, err := p.Lbctl(ctx, args...)
		w.hears("lbctl "+strings.Join(args, " "), out)
		if err != nil {
			t.Fatal(err)
		}
	}
	file, _ := p.write(ctx, cluster.Master, cluster.Backup)
	lbctl("apply", "-f", file, "--no-wait")
	p.mustAgent(ctx, cluster.Backup, "adopt", "--yes")
	p.mustAgent(ctx, cluster.Master, "adopt", "--yes", "--holder")
	if _, err := p.Until(ctx, "a settled cluster", cluster.Settled(clustertest.Both...), cluster.NoAlarms); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"status", "-o", "json"}, {"events", "-o", "json"}, {"export"}, {"history", "-o", "json"}, {"cluster", "show", "-o", "json"}} {
		lbctl(args...)
	}
	for _, node := range clustertest.Both {
		p.mustAgent(ctx, node, "status", "-o", "json")
		text, err := os.ReadFile(filepath.Join(p.Nodes[node].StateDir, "haproxy", "haproxy.cfg"))
		if err != nil || !strings.Contains(string(text), secrets["hand-written secret"][1]) {
			t.Errorf("what was added by hand is not kept on %s: %v", node, err)
		}
	}
	for _, node := range []string{cluster.Backup, cluster.Master} {
		p.mustAgent(ctx, node, "release", "--yes")
		p.isBack(node)
	}
	w.testifies("/tmp", "/run")
}

// edit changes a hand-written file as its administrator does, for root alone,
// and has the daemon read it.
func edit(h *lab.Host, daemon string, reload syscall.Signal, path, old, secret, more string) error {
	text, err := os.ReadFile(h.Path(path))
	if err != nil {
		return err
	}
	changed := strings.Replace(string(text), old, secret, 1) + more
	if changed == string(text) {
		return errors.New(path + " does not hold " + old)
	}
	pids, err := h.Pids(daemon)
	if err == nil && len(pids) == 0 {
		err = errors.New("no " + daemon)
	}
	if err := errors.Join(err, os.WriteFile(h.Path(path), []byte(changed), 0o600), os.Chmod(h.Path(path), 0o600)); err != nil {
		return err
	}
	return syscall.Kill(slices.Min(pids), reload)
}
