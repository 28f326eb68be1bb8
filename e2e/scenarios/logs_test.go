package scenarios

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/e2e/internal/cluster"
	"github.com/tandem-lb/tandem/e2e/lab/labtest"
)

// A session that uses every kind of secret leaves none in any log: of requests,
// of VIPs, of the agents, of the controller and of the daemons.
func TestI10NoSecretIsInAnyLog(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := labtest.Deadline(t, 2*time.Minute)
	const password, bearer, cookie, query, wrong = "canary-password", "canary-bearer", "canary-cookie", "canary-query", "canary-operator"
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	s.lbctl(ctx, "cluster", "set", "--log-target", "file", "--log-format", "json", "--stats-user", "admin", "--stats-password-file", file)
	join := s.lbctl(ctx, "node", "token", "create", "lb-third", "-o", "name")
	operator, err := os.ReadFile(s.Controller.TokenFile())
	if err != nil {
		t.Fatal(err)
	}
	stranger := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(stranger, []byte("tandem-operator.x."+wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lbctl(ctx, "status", "--token-file", stranger); err == nil {
		t.Error("a wrong token was let in")
	}

	s.request(ctx, "192.168.1.100:80", "/canary-path?token="+query, "Bearer "+bearer, "id="+cookie, http.StatusOK)
	authorization := &http.Request{Header: http.Header{}}
	authorization.SetBasicAuth("admin", password)
	s.request(ctx, "192.168.1.10:8080", "/stats", authorization.Header.Get("Authorization"), "", http.StatusOK)
	// Lines that HAProxy has handed to an agent are lost when that is killed.
	s.until(20*time.Second, "the request is in the access log", func(context.Context) error {
		return s.logHas("access.log", "canary-path")
	})
	master := s.Nodes[cluster.Master]
	if err := master.KillAgent(); err != nil {
		t.Fatal(err)
	}
	if err := master.StartAgent(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Until(ctx, "lb-master is back", cluster.Connected(cluster.Master)); err != nil {
		t.Fatal(err)
	}
	s.lbctl(ctx, "node", "drain", cluster.Master)
	s.until(20*time.Second, "the VIP's way is in the state log", func(context.Context) error {
		return s.logHas("keepalived-state.log", ": Agent started", ": Became MASTER: VIP web, priority 230",
			": Became BACKUP: VIP web, priority 180: the node is drained")
	})

	logs := s.logs()
	for _, name := range []string{"access.log", "keepalived-state.log", "keepalived.log", "haproxy.log", "lb-agent.log", "lb-controller.log"} {
		if !strings.Contains(strings.Join(logs.names, " "), "/"+name) {
			t.Errorf("there is no %s among %v", name, logs.names)
		}
	}
	last := func(token string) string { return token[strings.LastIndexByte(strings.TrimSpace(token), '.')+1:] }
	for _, secret := range []string{
		password, bearer, cookie, query, wrong, strings.TrimSpace(last(join)), strings.TrimSpace(last(string(operator))),
		strings.TrimPrefix(authorization.Header.Get("Authorization"), "Basic "), "$2b$", "$2a$", "PRIVATE KEY",
	} {
		for n, text := range logs.texts {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%q is in %s", secret, logs.names[n])
			}
		}
	}
}

// request sends one request from the client's machine.
func (s *site) request(ctx context.Context, address, path, authorization, cookie string, want int) {
	s.t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: s.Lab.Host("client").Dial, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Authorization", authorization)
	request.Header.Set("Cookie", cookie)
	response, err := client.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != want {
		s.t.Errorf("%s%s answers %s", address, path, response.Status)
	}
}

// logFiles are all log files of a site.
type logFiles struct {
	names []string
	texts [][]byte
}

// logs reads every log file of the site.
func (s *site) logs() (all logFiles) {
	s.t.Helper()
	dirs := []string{s.Lab.Dir}
	for _, n := range s.Nodes {
		dirs = append(dirs, n.Host.Path(n.RunDir))
	}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() || !strings.Contains(entry.Name(), ".log") {
				return err
			}
			text, err := os.ReadFile(path)
			all.names, all.texts = append(all.names, path), append(all.texts, text)
			return err
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return all
}

// logHas tells whether a log of lb-master has all of the words, and whether an
// access log is JSON.
func (s *site) logHas(name string, words ...string) error {
	n := s.Nodes[cluster.Master]
	text, err := os.ReadFile(filepath.Join(n.LogDir(), name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, w := range words {
		if !bytes.Contains(text, []byte(w)) {
			return fmt.Errorf("%s does not have %q:\n%s", name, w, text)
		}
	}
	if name == "access.log" {
		for line := range bytes.Lines(text) {
			if !json.Valid(line) {
				return fmt.Errorf("%q is no JSON", line)
			}
		}
	}
	return nil
}
