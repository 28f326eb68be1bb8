package config

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

var update = flag.Bool("update", false, "write the golden files")

// environment as a driver that is root makes it.
var environment = Environment{
	EventSocket: "/events.sock", AccessSocket: "/access.sock",
	StatsSocket: "/run/tandem/haproxy/stats.sock",
	StateFile:   "/run/tandem/haproxy/servers.state",
	Chroot:      "/run/tandem/haproxy/jail",
	User:        "haproxy",
	Group:       "haproxy",
}

func d(v time.Duration) *durationpb.Duration { return durationpb.New(v) }

// guide is the configuration of the guide's own file.
func guide() *haproxyv1.Config {
	server := func(name string, id uint32, address string) *haproxyv1.Server {
		return &haproxyv1.Server{Backend: "web_servers", Name: name, Id: id, Address: address, Port: 80, Weight: 1}
	}
	return &haproxyv1.Config{
		Global: &haproxyv1.Global{
			MaxConnections: 4000,
			LogTarget:      "127.0.0.1:514",
			LogFacility:    "local0",
			Stats: &haproxyv1.Stats{
				Bind: &haproxyv1.Bind{Port: 8080}, Path: "/stats", Realm: "HAProxy Statistics", Refresh: d(30 * time.Second),
				Users: []*haproxyv1.User{{Name: "admin", PasswordHash: "$2b$04$w.VD3jtJkZOZa/Yf3VEnJOn1tB5c8ENZ627VrDBvjw4QCnwtnOCI6"}},
			},
		},
		Frontends: []*haproxyv1.Frontend{{
			Name: "web_frontend", Mode: haproxyv1.Mode_MODE_HTTP,
			Binds:          []*haproxyv1.Bind{{Address: "192.168.1.100", Port: 80, Floating: true}},
			DefaultBackend: "web_servers", ClientTimeout: d(time.Minute), HttpRequestTimeout: d(10 * time.Second),
			HttpKeepAliveTimeout: d(10 * time.Second), ForwardedFor: true, MaxConnections: 3000,
		}},
		Backends: []*haproxyv1.Backend{{
			Name: "web_servers", Mode: haproxyv1.Mode_MODE_HTTP, Balance: haproxyv1.Balance_BALANCE_ROUNDROBIN,
			ConnectTimeout: d(10 * time.Second), ServerTimeout: d(time.Minute), QueueTimeout: d(time.Minute),
			Retries: 3, Redispatch: true,
			Check: &haproxyv1.Check{
				Http:     &haproxyv1.HttpCheck{Method: "GET", Path: "/health", StatusMin: 200, StatusMax: 399},
				Interval: d(2 * time.Second), Timeout: d(10 * time.Second), Rise: 2, Fall: 3,
			},
			Servers: []*haproxyv1.Server{
				server("web1", 1, "192.168.1.20"), server("web2", 2, "192.168.1.21"), server("web3", 3, "192.168.1.22"),
			},
		}},
	}
}

// everything uses what the guide does not.
func everything() *haproxyv1.Config {
	c := guide()
	c.Global.LogTarget = "[2001:db8::5]:5140"
	c.Global.Stats.Users = nil
	c.Global.Stats.Bind.Address = "127.0.0.1"
	c.Global.Stats.Refresh = nil
	web := c.Frontends[0]
	// A listener and a pool may have one name.
	web.Name = "web_servers"
	web.Binds = []*haproxyv1.Bind{
		{Port: 80},
		{Address: "2001:db8::100", Port: 8000, PortEnd: 8003, Floating: true},
		{Address: "127.0.0.1", Port: 8100, PortEnd: 8100},
	}
	web.ForwardedFor = false
	pool := c.Backends[0]
	pool.Check.Http.Host, pool.Check.Http.Method, pool.Check.Port = "www.example.com", "HEAD", 8081
	pool.Balance, pool.Redispatch = haproxyv1.Balance_BALANCE_URI, false
	pool.Servers[0].Maintenance = true
	pool.Servers[1].Weight = 0
	pool.Servers[1].MaxConnections = 50
	pool.Servers[2].Backup = true
	pool.Servers[2].Address = "2001:db8::22"
	c.Frontends = append(c.Frontends, &haproxyv1.Frontend{
		Name: "db", Mode: haproxyv1.Mode_MODE_TCP, Binds: []*haproxyv1.Bind{{Address: "192.0.2.9", Port: 5432}},
		DefaultBackend: "db", ClientTimeout: d(1500 * time.Microsecond), MaxConnections: 1,
	})
	c.Backends = append(c.Backends, &haproxyv1.Backend{
		Name: "db", Mode: haproxyv1.Mode_MODE_TCP, Balance: haproxyv1.Balance_BALANCE_LEASTCONN,
		ConnectTimeout: d(time.Second), ServerTimeout: d(time.Hour), QueueTimeout: d(time.Second),
		Check:   &haproxyv1.Check{Interval: d(500 * time.Millisecond), Timeout: d(time.Second), Rise: 1, Fall: 1},
		Servers: []*haproxyv1.Server{{Backend: "db", Name: "0.a-B_:c", Id: 7, Address: "::ffff:192.0.2.1", Port: 65535, Weight: 256}},
	}, &haproxyv1.Backend{
		Name: "unchecked", Mode: haproxyv1.Mode_MODE_TCP, Balance: haproxyv1.Balance_BALANCE_SOURCE,
		ConnectTimeout: d(time.Second), ServerTimeout: d(time.Hour), QueueTimeout: d(time.Second),
	})
	return c
}

func TestGolden(t *testing.T) {
	ours := environment
	ours.Chroot, ours.User, ours.Group, ours.NoIPv6 = "", "", "", true
	ours.EventSocket = "/home/it's/events.sock"
	logged := func(change func(*haproxyv1.Global)) *haproxyv1.Config {
		c := everything()
		c.Global.LogTarget, c.Global.LogLocal = "", haproxyv1.LocalLog_LOCAL_LOG_FILE
		change(c.Global)
		return c
	}
	for name, test := range map[string]struct {
		config *haproxyv1.Config
		env    Environment
	}{
		"guide":        {guide(), environment},
		"everything":   {everything(), environment},
		"unprivileged": {everything(), ours},
		"log-file":     {logged(func(g *haproxyv1.Global) { g.LogWithoutQuery = true }), environment},
		"log-json":     {logged(func(g *haproxyv1.Global) { g.LogFormat = haproxyv1.LogFormat_LOG_FORMAT_JSON }), environment},
		"log-json-without-query": {logged(func(g *haproxyv1.Global) {
			g.LogLocal, g.LogFormat, g.LogWithoutQuery = haproxyv1.LocalLog_LOCAL_LOG_JOURNALD, haproxyv1.LogFormat_LOG_FORMAT_JSON, true
		}), environment},
		"empty": {&haproxyv1.Config{Global: &haproxyv1.Global{MaxConnections: 100}}, environment},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := Render(test.config, test.env)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".cfg")
			if *update {
				if err := os.WriteFile(path, file.Text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(file.Text, want) {
				t.Errorf("differs from %s (see go test -update):\n%s", path, file.Text)
			}
			if !IsOurs(file.Text) || !bytes.HasSuffix(file.Text, []byte("\n")) {
				t.Error("no header, or no newline at the end")
			}
			if err := check(t, file.Text); err != nil {
				t.Errorf("haproxy -c: %v", err)
			}
		})
	}
}

// check has the real checker read a file.
func check(t interface {
	Helper()
	Fatal(...any)
}, text []byte) error {
	t.Helper()
	f, err := os.CreateTemp("", "check-*.cfg")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	output, err := exec.CommandContext(ctx, "haproxy", "-c", "-f", f.Name()).CombinedOutput()
	if err != nil {
		return errors.New(string(output))
	}
	return nil
}

func TestRefused(t *testing.T) {
	for field, breakIt := range map[string]func(c *haproxyv1.Config){
		"global":                 func(c *haproxyv1.Config) { c.Global = nil },
		"global.max_connections": func(c *haproxyv1.Config) { c.Global.MaxConnections = 0 },
		"global.log_target":      func(c *haproxyv1.Config) { c.Global.LogTarget = "127.0.0.1" },
		"global.log_facility":    func(c *haproxyv1.Config) { c.Global.LogFacility = "local0 debug" },
		"global.log_format":      func(c *haproxyv1.Config) { c.Global.LogFormat = 99 },
		"global.log_local": func(c *haproxyv1.Config) {
			c.Global.LogTarget, c.Global.LogLocal = "", 99
		},
		"global.stats.path":            func(c *haproxyv1.Config) { c.Global.Stats.Path = "stats" },
		"global.stats.realm":           func(c *haproxyv1.Config) { c.Global.Stats.Realm = "a\nb" },
		"global.stats.bind.port":       func(c *haproxyv1.Config) { c.Global.Stats.Bind.Port = 0 },
		"global.stats.users[a\x00]":    func(c *haproxyv1.Config) { c.Global.Stats.Users[0].Name = "a\x00" },
		"frontends[a b].name":          func(c *haproxyv1.Config) { c.Frontends[0].Name = "a b" },
		"frontends[tandem:stats].name": func(c *haproxyv1.Config) { c.Frontends[0].Name = statsName },
		"frontends[web_frontend].name": func(c *haproxyv1.Config) {
			c.Frontends = append(c.Frontends, c.Frontends[0])
		},
		"frontends[web_frontend].mode":             func(c *haproxyv1.Config) { c.Frontends[0].Mode = 0 },
		"frontends[web_frontend].binds":            func(c *haproxyv1.Config) { c.Frontends[0].Binds = nil },
		"frontends[web_frontend].binds[0].address": func(c *haproxyv1.Config) { c.Frontends[0].Binds[0].Address = "fe80::1%eth0" },
		"frontends[web_frontend].binds[0].port":    func(c *haproxyv1.Config) { c.Frontends[0].Binds[0].Port = 70000 },
		"frontends[web_frontend].binds[0].port_end": func(c *haproxyv1.Config) {
			c.Frontends[0].Binds[0].PortEnd = 79
		},
		"frontends[web_frontend].default_backend": func(c *haproxyv1.Config) { c.Frontends[0].DefaultBackend = "other" },
		"frontends[web_frontend].client_timeout":  func(c *haproxyv1.Config) { c.Frontends[0].ClientTimeout = nil },
		"backends[web_servers].balance":           func(c *haproxyv1.Config) { c.Backends[0].Balance = 99 },
		"backends[web_servers].server_timeout":    func(c *haproxyv1.Config) { c.Backends[0].ServerTimeout = d(-1) },
		"backends[web_servers].queue_timeout":     func(c *haproxyv1.Config) { c.Backends[0].QueueTimeout = d(1000 * time.Hour) },
		"backends[web_servers].check.rise":        func(c *haproxyv1.Config) { c.Backends[0].Check.Rise = 0 },
		"backends[web_servers].check.http.method": func(c *haproxyv1.Config) { c.Backends[0].Check.Http.Method = "GET /" },
		"backends[web_servers].check.http.path":   func(c *haproxyv1.Config) { c.Backends[0].Check.Http.Path = "/a b" },
		"backends[web_servers].check.http.host":   func(c *haproxyv1.Config) { c.Backends[0].Check.Http.Host = "a\rb" },
		"backends[web_servers].check.http.status_max": func(c *haproxyv1.Config) {
			c.Backends[0].Check.Http.StatusMax = 199
		},
		"backends[web_servers].servers[web 1]": func(c *haproxyv1.Config) { c.Backends[0].Servers[0].Name = "web 1" },
		"backends[web_servers].servers[web2]": func(c *haproxyv1.Config) {
			c.Backends[0].Servers[0].Name = "web2"
		},
		"backends[web_servers].servers[web3]": func(c *haproxyv1.Config) { c.Backends[0].Servers[2].Id = 1 },
		"backends[web_servers].servers[web1]": func(c *haproxyv1.Config) { c.Backends[0].Servers[0].Address = "0.0.0.0" },
	} {
		t.Run(field, func(t *testing.T) {
			c := guide()
			breakIt(c)
			_, err := Render(c, environment)
			var refused *Error
			if !errors.As(err, &refused) || !strings.HasPrefix(refused.Field, field) {
				t.Errorf("error %v, want one about %s", err, field)
			}
		})
	}
	long := guide()
	long.Backends[0].Check.Http.Path = "/" + strings.Repeat("x", 2048)
	if _, err := Render(long, environment); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a line that HAProxy would cut: %v", err)
	}
}

// The structure names all but the servers.
func TestStructure(t *testing.T) {
	structure := func(change func(c *haproxyv1.Config)) string {
		c := proto.CloneOf(guide())
		change(c)
		file, err := Render(c, environment)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(file.Text, []byte("description "+file.Structure+"\n")) {
			t.Fatal("the file does not name its structure")
		}
		return file.Structure
	}
	base := structure(func(*haproxyv1.Config) {})
	for name, change := range map[string]func(c *haproxyv1.Config){
		"weight":      func(c *haproxyv1.Config) { c.Backends[0].Servers[0].Weight = 9 },
		"address":     func(c *haproxyv1.Config) { c.Backends[0].Servers[0].Address = "10.0.0.1" },
		"maintenance": func(c *haproxyv1.Config) { c.Backends[0].Servers[0].Maintenance = true },
		"removed":     func(c *haproxyv1.Config) { c.Backends[0].Servers = nil },
	} {
		if structure(change) != base {
			t.Errorf("%s changes the structure", name)
		}
	}
	for name, change := range map[string]func(c *haproxyv1.Config){
		"timeout":  func(c *haproxyv1.Config) { c.Backends[0].ConnectTimeout = d(time.Second) },
		"check":    func(c *haproxyv1.Config) { c.Backends[0].Check.Rise = 5 },
		"password": func(c *haproxyv1.Config) { c.Global.Stats.Users[0].PasswordHash = "x" },
		"bind":     func(c *haproxyv1.Config) { c.Frontends[0].Binds[0].Floating = false },
	} {
		if structure(change) == base {
			t.Errorf("%s does not change the structure", name)
		}
	}
}
