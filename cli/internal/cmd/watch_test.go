package cmd

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// until cancels once it has been written often enough.
type until struct {
	mu     sync.Mutex
	text   bytes.Buffer
	word   string
	count  int
	cancel context.CancelFunc
}

// Write keeps what it gets.
func (u *until) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.text.Write(p)
	if strings.Count(u.text.String(), u.word) >= u.count {
		u.cancel()
	}
	return len(p), nil
}

// follow runs a command until word was written count times.
func (r *recorder) follow(t *testing.T, word string, count int, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out := &until{word: word, count: count, cancel: cancel}
	env := map[string]string{
		"LBCTL_SERVER": r.address, "LBCTL_CA": filepath.Join(r.dir, "ca.pem"), "LBCTL_TOKEN_FILE": filepath.Join(r.dir, "token"),
	}
	var words bytes.Buffer
	code := Run(ctx, Env{
		Args: args, Stdin: strings.NewReader(""), Stdout: out, Stderr: &words,
		LookupEnv: func(name string) (string, bool) { value, ok := env[name]; return value, ok },
	})
	if code != 0 {
		t.Errorf("%v ended with %d: %s", args, code, words.String())
	}
	return out.text.String()
}

func TestEventsFollowResumes(t *testing.T) {
	r := newRecorder(t)
	r.replies["WatchEvents"] = []proto.Message{
		&tandemv1.WatchEventsResponse{Step: &tandemv1.WatchEventsResponse_Event{Event: &tandemv1.Event{Name: "clusters/default/events/41", Reason: "BACKEND_DOWN", Message: "web1 is down"}}, ResumeToken: "41"},
		&tandemv1.WatchEventsResponse{Step: &tandemv1.WatchEventsResponse_Heartbeat{Heartbeat: true}, ResumeToken: "42"},
	}
	// The recorder ends each watch after these two, as a restart would.
	out := r.follow(t, "BACKEND_DOWN", 2, "events", "--follow", "--tail", "3")
	if !strings.Contains(out, "BACKEND_DOWN        web1 is down\n") {
		t.Errorf("got %q", out)
	}
	calls := r.taken()
	if calls[0] != `WatchEvents {"parent":"clusters/default","tail":3}` || calls[1] != `WatchEvents {"parent":"clusters/default","resume_token":"42"}` {
		t.Errorf("got %v", calls)
	}
	if out := r.follow(t, "\n", 1, "events", "-f", "-o", "json"); !strings.HasPrefix(out, `{"name":"clusters/default/events/41",`) || strings.Count(out, "\n") != 1 {
		t.Errorf("want one event a line, got %q", out)
	}
}

func TestStatusWatchShowsWhatIsSynced(t *testing.T) {
	r := newRecorder(t)
	r.replies["WatchStatus"] = []proto.Message{
		&tandemv1.WatchStatusResponse{Epoch: "e", Change: &tandemv1.WatchStatusResponse_Desired{Desired: 7}},
		&tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Vip{Vip: &tandemv1.VipStatus{Name: "clusters/default/vips/web", Holders: []string{"lb-master"}}}},
		&tandemv1.WatchStatusResponse{Change: &tandemv1.WatchStatusResponse_Synced{Synced: true}},
	}
	if out := r.follow(t, "\n", 3, "status", "--watch", "-o", "json"); !strings.HasPrefix(out, `{"desired":"7","epoch":"e"}`+"\n"+`{"vip":`) {
		t.Errorf("got %q", out)
	}
	r.hold = true
	if out := r.follow(t, "lb-master", 1, "status", "-w"); !strings.HasPrefix(out, "Cluster default at revision 7: ") {
		t.Errorf("got %q", out)
	}
}

// TestEveryCommandHasHelp holds for all that this package adds.
func TestEveryCommandHasHelp(t *testing.T) {
	a := &app{}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" || cmd.Long == "" || cmd.Example == "" || cmd.Args == nil {
			t.Errorf("%q lacks one of Short, Long, Example, Args", cmd.CommandPath())
		}
		if strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%q: Short ends with a full stop", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Long) {
			if len(line) > 81 {
				t.Errorf("%q: a line of Long is too long for a terminal: %q", cmd.CommandPath(), line)
			}
		}
		for _, child := range cmd.Commands() {
			walk(child)
		}
	}
	walk(a.rootCommand())
}

func TestFit(t *testing.T) {
	tests := []struct {
		frame         string
		width, height int
		want          string
	}{
		{"a\nb\n", 10, 3, "a\nb\n"},
		{"a\nb\nc\n", 10, 3, "a\nb\n..."},
		{"aaaaaaaaaaaaaaa\nb\n", 10, 3, "aaaaaaaaaaaaaaa\n..."},
		{"\x1b[31;1maaaaaaaaaa\x1b[0m\nb\n", 10, 3, "\x1b[31;1maaaaaaaaaa\x1b[0m\nb\n"},
	}
	for _, tt := range tests {
		if got := string(fit([]byte(tt.frame), tt.width, tt.height)); got != tt.want {
			t.Errorf("fit(%q, %d, %d) = %q, want %q", tt.frame, tt.width, tt.height, got, tt.want)
		}
	}
}
