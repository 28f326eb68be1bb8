package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func read(t *testing.T, text string) (*Settings, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Read(path)
}

func TestReadFillsInDefaults(t *testing.T) {
	s, err := read(t, "node: lb-master\ncontrollers: [192.168.1.5:9443]\ninterface: eth0\nnetworks: {vrrp: eth2}\n")
	if err != nil {
		t.Fatal(err)
	}
	if s.Networks["front"] != "eth0" || s.Networks["vrrp"] != "eth2" {
		t.Errorf("networks are %v, want front on eth0 and vrrp on eth2", s.Networks)
	}
	if s.Runner != "exec" || s.HAProxy.Binary != "haproxy" || s.StateDir == "" || s.RunDir == "" {
		t.Errorf("defaults are missing: %+v", s)
	}
	if got := s.Logs.File("access.log"); got.Path != "/var/log/tandem/access.log" || got.MaxSize != 100<<20 || got.Keep != 5 {
		t.Errorf("access log: %+v", got)
	}
}

func TestReadNamesWhatIsWrong(t *testing.T) {
	const good = "node: a\ncontrollers: [127.0.0.1:1]\n"
	for text, want := range map[string]string{
		"node: a\n":                             "controllers: must name at least one",
		"node: a\ncontrollers: [nowhere]\n":     `controllers[0]: "nowhere" must be host:port`,
		"node: 'a b'\ncontrollers: ['x:1']\n":   `node: "a b" must be`,
		good + "interface: 'eth0 }'\n":          `"eth0 }" is not the name of an interface`,
		good + "networks: {vrrp: \"a\\nb\"}\n":  `networks.vrrp: "a\nb" is not`,
		good + "runner: docker\n":               `runner: "docker" must be exec or systemd`,
		good + "runner: systemd\nrun_dir: /x\n": "state_dir, run_dir: must be left out with runner systemd",
		good + "intreface: eth0\n":              "intreface",
		good + "node: b\n":                      "node",
		good + "log_level: loud\n":              `log_level: "loud" must be`,
		good + "logs: {directory: var/log}\n":   `logs.directory: "var/log" must begin with /`,
		good + "logs: {max_size_mb: -1}\n":      "logs.max_size_mb: -1 must be 1 to 100000",
		good + "logs: {keep: 1001}\n":           "logs.keep: 1001 must be 1 to 1000",
	} {
		if _, err := read(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v, want an error with %q", text, err, want)
		}
	}
}
