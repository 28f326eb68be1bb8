package manifest

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"

	"google.golang.org/grpc/codes"

	"github.com/tandem-lb/tandem/cli/internal/failure"
)

const guide = `# the guide's cluster
---
cluster:
  name: default
vips:
- name: web
  addresses: [192.168.1.100/24]
  vrid: 51
pools:
- name: web_servers
  connect_timeout: 500ms
  check:
    interval: 2s
  backends:
  - {name: web1, address: 192.168.1.20, port: 80}
  - name: web2
    address: 192.168.1.999
    port: 80
listeners:
- name: web_frontend
  binds: [{vip: web, port: 80}]
  pool: web_servers
`

func TestRead(t *testing.T) {
	m, err := Read(strings.NewReader(guide), "guide.yaml")
	if err != nil {
		t.Fatal(err)
	}
	pool := m.Config.GetPools()[0]
	if got := pool.GetConnectTimeout().AsDuration(); got != 500*time.Millisecond {
		t.Errorf("connect_timeout is %v", got)
	}
	if got := pool.GetBackends()[1].GetAddress(); got != "192.168.1.999" {
		t.Errorf("backend 1 has the address %q", got)
	}
}

func TestReadJSON(t *testing.T) {
	m, err := Read(strings.NewReader(`{"pools": [{"name": "p", "connectTimeout": "0.5s"}]}`), "p.json")
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Config.GetPools()[0].GetConnectTimeout().AsDuration(); got != 500*time.Millisecond {
		t.Errorf("connectTimeout is %v", got)
	}
}

func TestReadRefuses(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"unknown field", "pools:\n- name: p\n  ballance: leastconn\n", []string{"f.yaml:3:3", "unknown field", "ballance", "..^"}},
		{"wrong kind", "pools:\n- name: p\n  retries: many\n", []string{"f.yaml:3:12", "..........."}},
		{"duplicate key", "pools:\n- name: p\n  balance: first\n  balance: source\n", []string{"f.yaml", "line 4", `"balance"`, "already set"}},
		{"duplicate top key", "pools: []\npools: []\n", []string{"line 2", `"pools"`}},
		{"bad duration", "pools:\n- name: p\n  connect_timeout: soon\n", []string{"f.yaml:3:20", "duration"}},
		{"two documents", "pools: []\n---\npools: []\n", []string{"line 2 begins a second document"}},
		{"no mapping", "- a\n- b\n", []string{"f.yaml"}},
		{"nothing", "# only a remark\n", []string{"f.yaml is empty: it must hold at least one of cluster, vips, pools, listeners"}},
		{"not YAML", "pools: [\n", []string{"f.yaml"}},
		{"a binary", "\x7fELF\x00\x01\x02", []string{"f.yaml"}},
		{"control characters", "pools:\n- \"na\\u001b[2Jme\": p\n", []string{"f.yaml:2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Read(strings.NewReader(tt.text), "f.yaml")
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in:\n%s", want, err)
				}
			}
			if strings.ContainsRune(err.Error(), '\x1b') {
				t.Errorf("control character in %q", err)
			}
		})
	}
}

// zeros is an endless file.
type zeros struct{ read int }

func (z *zeros) Read(p []byte) (int, error) {
	clear(p)
	z.read += len(p)
	return len(p), nil
}

func TestReadIsBounded(t *testing.T) {
	var endless zeros
	_, err := Read(&endless, "big.yaml")
	if err == nil || !strings.Contains(err.Error(), "big.yaml is larger than 16 MiB") {
		t.Errorf("got %v", err)
	}
	if endless.read > 3*MaxSize {
		t.Errorf("read %d bytes of an endless file", endless.read)
	}
	file, err := os.CreateTemp(t.TempDir(), "big")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(100 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(file, "big.yaml"); err == nil {
		t.Error("a file of 100 MB was taken")
	}
}

func TestLocate(t *testing.T) {
	m, err := Read(strings.NewReader(guide), "guide.yaml")
	if err != nil {
		t.Fatal(err)
	}
	refused := &failure.Error{Code: codes.InvalidArgument, Violations: []failure.Violation{
		{Field: "config.pools[0].backends[1].address", Reason: "FIELD_INVALID", Message: "must be an IP address"},
		{Field: "config.vips[0].vrid", Reason: "VRID_TAKEN", Message: "is taken"},
	}}
	located := m.Locate(refused)
	want := `guide.yaml:17:14 pools[0].backends[1].address: must be an IP address (FIELD_INVALID)
  17 |     address: 192.168.1.999
  17 | .............^

guide.yaml:8:9 vips[0].vrid: is taken (VRID_TAKEN)
   8 |   vrid: 51
   8 | ........^`
	if located.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", located, want)
	}
	if code := failure.ExitCode(located); code != failure.ExitError {
		t.Errorf("exit code %d", code)
	}
	var call *failure.Error
	if !errors.As(located, &call) {
		t.Error("the controller's refusal is lost")
	}
	other := errors.New("other")
	if got := m.Locate(other); !errors.Is(got, other) || got.Error() != "other" {
		t.Error("other errors must pass")
	}
}

// FuzzRead reads any file without a panic, and never lets its bytes reach the
// terminal as they are.
func FuzzRead(f *testing.F) {
	f.Add([]byte(guide))
	f.Add([]byte("pools: &a [*a]"))
	f.Add([]byte("{\"pools\": [{\"name\": \"\\u001b[2J\", \"retries\": -1}]}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Read(bytes.NewReader(text), "f.yaml")
		if err == nil {
			err = m.Locate(&failure.Error{Violations: []failure.Violation{{Field: "config.pools[0].name", Message: "x"}}})
		}
		for _, r := range err.Error() {
			if unicode.IsControl(r) && r != '\n' {
				t.Errorf("control character in %q", err)
			}
		}
	})
}
