package adopt

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/agent/internal/running"
)

// claims notes whether the units were made Tandem's.
type claims struct {
	Units
	claimed bool
}

func (c *claims) Claim(context.Context, bool) error {
	c.claimed = true
	return nil
}

// A daemon that does not run now may be started with its file at any moment.
func TestUnitsWithHandWrittenFilesAreLeftAlone(t *testing.T) {
	proxy, vrrp := packagedProxyFile, packagedVRRPFile
	t.Cleanup(func() { packagedProxyFile, packagedVRRPFile = proxy, vrrp })
	for name, test := range map[string]struct {
		proxy, vrrp string // empty: no file
		refused     string // empty: claimed
	}{
		"nothing there":          {},
		"Debian's":               {"global\n\tdaemon\ndefaults\n\tmode\thttp\n\tlog\tglobal # listen\n", "", ""},
		"a frontend":             {"defaults\n\tmode http\nfrontend web\n\tbind :80\n", "", "haproxy.cfg"},
		"a listen section, bent": {"global\n  listen\tweb\n", "", "haproxy.cfg"},
		"a VIP":                  {"", "vrrp_instance a {\n}\n", "keepalived.conf"},
		"an empty file":          {"", "\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			packagedProxyFile, packagedVRRPFile = filepath.Join(dir, "haproxy.cfg"), filepath.Join(dir, "keepalived.conf")
			for path, text := range map[string]string{packagedProxyFile: test.proxy, packagedVRRPFile: test.vrrp} {
				if text != "" {
					if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			units := &claims{}
			to := &Takeover{Options: Options{Units: units}}
			err := to.claim(t.Context())
			if units.claimed != (test.refused == "") || units.claimed != (err == nil) {
				t.Errorf("claimed: %v, %v", units.claimed, err)
			}
			if err != nil && !strings.Contains(err.Error(), test.refused) {
				t.Errorf("%v, want %s named", err, test.refused)
			}
		})
	}
}

// Without a master socket nobody could tell what a reload has come to.
func TestMasterSocket(t *testing.T) {
	for line, want := range map[string]string{
		"haproxy -Ws -f /etc/haproxy/haproxy.cfg -p /run/haproxy.pid -S /run/haproxy-master.sock": "/run/haproxy-master.sock",
		"haproxy -W -S unix@/run/m,mode,600 -f /etc/haproxy/haproxy.cfg":                          "/run/m",
		"haproxy -Ws -f /etc/haproxy/haproxy.cfg":                                                 "",
		"haproxy -Ws -f /etc/haproxy/haproxy.cfg -S":                                              "",
		"haproxy -Ws -S m.sock -f /etc/haproxy/haproxy.cfg":                                       "",
	} {
		got, err := masterSocket(&running.Daemon{PID: 7, Args: strings.Fields(line)})
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v; want %q", line, got, err, want)
		}
		if err != nil && !strings.Contains(err.Error(), "-S /run/haproxy-master.sock") {
			t.Errorf("%s: no cure in %v", line, err)
		}
	}
}
