package running

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// process is one of a made-up machine.
type process struct {
	pid, name, parent, namespace, state, args, cwd, cgroup string
}

// machine makes a directory like /proc.
func machine(t *testing.T, processes ...process) string {
	t.Helper()
	root := t.TempDir()
	for _, p := range append(processes, process{pid: "self", name: "lb-agent", parent: "1"}) {
		dir := filepath.Join(root, p.pid)
		if err := os.MkdirAll(filepath.Join(dir, "ns"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"comm":    p.name + "\n",
			"stat":    p.pid + " (" + p.name + ") " + orElse(p.state, "S") + " " + p.parent + " 1 1 0 -1",
			"cmdline": strings.ReplaceAll(p.args, " ", "\x00") + "\x00",
			"cgroup":  orElse(p.cgroup, "0::/user.slice/user@0.service/x.scope\n"),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for link, to := range map[string]string{"ns/net": orElse(p.namespace, "net:[1]"), "cwd": orElse(p.cwd, "/"), "exe": "/usr/sbin/x"} {
			if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func TestFind(t *testing.T) {
	root := machine(t,
		process{pid: "10", name: "haproxy", parent: "1", args: "haproxy -Ws -f /etc/haproxy/haproxy.cfg -p /run/x", cgroup: "1:name=systemd:/x\n0::/system.slice/haproxy.service\n"},
		process{pid: "11", name: "haproxy", parent: "10", args: "haproxy -Ws -f /etc/haproxy/haproxy.cfg"},
		process{pid: "12", name: "haproxy", parent: "1", namespace: "net:[2]", args: "haproxy -f /other"},
		process{pid: "13", name: "haproxy", parent: "1", state: "Z"},
		process{pid: "14", name: "bash", parent: "1", args: "bash haproxy"},
		process{pid: "15", name: "haproxy", parent: "14", args: "haproxy -D -C /srv -- lb.cfg"},
		process{pid: "16", name: "haproxy", parent: "1", args: "haproxy -f lb.cfg", cwd: "/home"},
		process{pid: "17", name: "haproxy", parent: "1", args: "haproxy -c -q -f /new.cfg"},
		process{pid: "18", name: "haproxy", parent: "1", args: "haproxy -vv"},
	)
	found, err := find(root, "haproxy", haproxyFile)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range found {
		got = append(got, d.File+" "+d.Unit)
	}
	if want := "/etc/haproxy/haproxy.cfg haproxy.service, /srv/lb.cfg , /home/lb.cfg "; strings.Join(got, ", ") != want {
		t.Errorf("found %q, want %q", strings.Join(got, ", "), want)
	}
	if found[0].PID != 10 || len(found[0].Args) != 6 {
		t.Errorf("first is %+v", found[0])
	}
}

// A program that has just been started, or is about to be gone, has no command line: the
// agent's own question for the version, for one. It is looked at again until that tells
// what it is.
func TestProcessesThatBegin(t *testing.T) {
	const begins = 50 * time.Millisecond
	for name, test := range map[string]struct {
		then process
		want string
		took time.Duration
	}{
		"a daemon":   {process{pid: "10", name: "haproxy", parent: "1", args: "haproxy -f /lb.cfg"}, "/lb.cfg", begins},
		"a question": {process{pid: "10", name: "haproxy", parent: "1", args: "haproxy -v"}, "", begins},
		"it ends":    {process{pid: "10", name: "haproxy", parent: "1", state: "Z"}, "", begins},
		"neither":    {process{pid: "10", name: "haproxy", parent: "1"}, "haproxy (process 10): has no command line, neither starts nor ends: look what it does, or stop it", settling},
	} {
		t.Run(name, func(t *testing.T) {
			root := machine(t, process{pid: "10", name: "haproxy", parent: "1"})
			after := machine(t, test.then)
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				time.AfterFunc(begins-settlingTick/2, func() {
					if err := errors.Join(os.RemoveAll(root+"/10"), os.Rename(after+"/10", root+"/10")); err != nil {
						t.Error(err)
					}
				})
				found, err := find(root, "haproxy", haproxyFile)
				got := ""
				if err != nil {
					got = err.Error()
				}
				for _, d := range found {
					got += d.File
				}
				if took := time.Since(began); got != test.want || took != test.took {
					t.Errorf("%q after %v, want %q after %v", got, took, test.want, test.took)
				}
			})
		})
	}
}

func TestSeveralFilesAreRefused(t *testing.T) {
	root := machine(t, process{pid: "10", name: "haproxy", parent: "1", args: "haproxy -f /a -f /b"})
	_, err := find(root, "haproxy", haproxyFile)
	if want := "haproxy (process 10): reads 2 configuration files: Tandem takes over one that reads a single file"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// The agent itself asks keepalived's program questions all the time.
func TestQuestionsAreNoDaemons(t *testing.T) {
	for _, args := range []string{"keepalived --signum=JSON", "keepalived --version", "keepalived --config-test --vrrp --use-file /x", "keepalived -t"} {
		if file, err := keepalivedFile(strings.Fields(args)); err == nil {
			t.Errorf("%s reads %s", args, file)
		}
	}
}

func TestKeepalivedFile(t *testing.T) {
	for args, want := range map[string]string{
		"keepalived --dont-fork":  "/etc/keepalived/keepalived.conf",
		"keepalived -n -f /a":     "/a",
		"keepalived -f/a":         "/a",
		"keepalived --use-file=x": "x",
		"keepalived --use-file x": "x",
	} {
		if got, err := keepalivedFile(strings.Fields(args)); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", args, got, err, want)
		}
	}
}
