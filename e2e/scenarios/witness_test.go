package scenarios

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// witness knows secrets, and keeps all that is said while they are in use: what
// programs print and answer, what any process shows of itself, and which files
// hold a secret.
type witness struct {
	t       testing.TB
	begun   time.Time // what is older is another test's
	own     string    // the directory with the secrets that are given
	dirs    []string  // whose files are looked at
	may     func(path, secret string) bool
	stop    context.CancelFunc
	stopped chan struct{}

	mu      sync.Mutex
	secrets map[string][]string // the forms of each, by what it is
	said    map[string][][]byte // by who said it
	seen    map[string]bool     // of processes, to keep each once
	open    map[string]bool     // files that others could read
	holders map[string]bool     // files that hold a secret
	kept    map[string]bool     // secrets that a file holds
}

// look is how often processes and files are looked at.
const look = 50 * time.Millisecond

func newWitness(t testing.TB, own string, may func(path, secret string) bool, dirs ...string) *witness {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	w := &witness{
		t: t, begun: time.Now().Add(-2 * time.Minute), own: own, dirs: dirs, may: may, stop: stop, stopped: make(chan struct{}),
		secrets: map[string][]string{}, said: map[string][][]byte{}, seen: map[string]bool{}, open: map[string]bool{}, holders: map[string]bool{}, kept: map[string]bool{},
	}
	go func() {
		defer close(w.stopped)
		for tick := time.NewTicker(look); ; {
			select {
			case <-tick.C:
				w.processes()
				w.files(w.dirs...)
			case <-ctx.Done():
				tick.Stop()
				return
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-w.stopped
	})
	return w
}

// knows makes text a secret and returns it.
func (w *witness) knows(what, text string) string {
	w.t.Helper()
	if len(text) < 8 {
		w.t.Fatalf("%s: %q is too short to be found", what, text)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	raw := []byte(text)
	w.secrets[what] = append(w.secrets[what], text, hex.EncodeToString(raw),
		strings.TrimRight(base64.StdEncoding.EncodeToString(raw), "="), base64.RawURLEncoding.EncodeToString(raw))
	return text
}

// hears keeps what someone said.
func (w *witness) hears(who string, text []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said[who] = append(w.said[who], bytes.Clone(text))
}

// processes keeps the argument list and the environment of every process. Those
// of other tests hold other secrets.
func (w *witness) processes() {
	for _, kind := range []string{"cmdline", "environ", "task/*/comm"} {
		paths, _ := filepath.Glob("/proc/[0-9]*/" + kind)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil || len(text) == 0 {
				continue // it has ended
			}
			w.mu.Lock()
			if !w.seen[string(text)] {
				w.seen[string(text)] = true
				w.said[kind+" of a process"] = append(w.said[kind+" of a process"], text)
			}
			w.mu.Unlock()
		}
	}
}

// files looks for secrets in files, temporary ones among them.
func (w *witness) files(dirs ...string) {
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err == nil && path == w.own:
				return fs.SkipDir
			case err != nil || !entry.Type().IsRegular():
				return nil //nolint:nilerr // it has gone meanwhile
			}
			info, err := entry.Info()
			if err != nil || info.Size() > 32<<20 || info.ModTime().Before(w.begun) {
				return nil //nolint:nilerr // the same
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return nil //nolint:nilerr // the same
			}
			for _, secret := range w.in(text) {
				w.mu.Lock()
				w.holders[path], w.kept[secret] = true, true
				if info.Mode().Perm()&0o077 != 0 || !w.may(path, secret) {
					w.open[fmt.Sprintf("%s (%v) holds the %s", path, info.Mode(), secret)] = true
				}
				w.mu.Unlock()
			}
			return nil
		})
	}
}

// in returns which secrets are in a text.
func (w *witness) in(text []byte) (found []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for what, forms := range w.secrets {
		if slices.ContainsFunc(forms, func(form string) bool { return bytes.Contains(text, []byte(form)) }) {
			found = append(found, what)
		}
	}
	return found
}

// testifies ends the watch, looks through further directories, and fails the test
// for each secret that was given away.
func (w *witness) testifies(dirs ...string) {
	w.t.Helper()
	w.stop()
	<-w.stopped
	w.processes()
	w.files(append(dirs, w.dirs...)...)
	bytesSaid := 0
	for who, texts := range w.said {
		for _, text := range texts {
			bytesSaid += len(text)
			for _, secret := range w.in(text) {
				w.t.Errorf("%s gives the %s away: %.2000q", who, secret, around(text, w.secrets[secret]))
			}
		}
	}
	for file := range w.open {
		w.t.Error(file)
	}
	w.t.Logf("%d secrets, %d bytes by %d who spoke, %d files that hold a secret", len(w.secrets), bytesSaid, len(w.said), len(w.holders))
}

// around is what stands around a secret.
func around(text []byte, forms []string) []byte {
	for _, form := range forms {
		if at := bytes.Index(text, []byte(form)); at >= 0 {
			return text[max(0, at-200):min(len(text), at+len(form)+100)]
		}
	}
	return nil
}
