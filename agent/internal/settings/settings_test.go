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
}

func TestReadNamesWhatIsWrong(t *testing.T) {
	const good = "node: a\ncontrollers: [127.0.0.1:1]\n"
	for text, want := range map[string]string{
		"node: a\n":                            "controllers: must name at least one",
		"node: a\ncontrollers: [nowhere]\n":    `controllers[0]: "nowhere" must be host:port`,
		"node: 'a b'\ncontrollers: ['x:1']\n":  `node: "a b" must be`,
		good + "interface: 'eth0 }'\n":         `"eth0 }" is not the name of an interface`,
		good + "networks: {vrrp: \"a\\nb\"}\n": `networks.vrrp: "a\nb" is not`,
		good + "runner: docker\n":              `runner: "docker" must be exec`,
		good + "intreface: eth0\n":             "intreface",
		good + "node: b\n":                     "node",
		good + "log_level: loud\n":             `log_level: "loud" must be`,
	} {
		if _, err := read(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v, want an error with %q", text, err, want)
		}
	}
}
