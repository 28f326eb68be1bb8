package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
	"github.com/tandem-lb/tandem/agent/internal/haproxy/runtime"
	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// target renders one pool of servers.
func target(t *testing.T, checked bool, servers ...*haproxyv1.Server) *config.File {
	t.Helper()
	second := durationpb.New(time.Second)
	pool := &haproxyv1.Backend{
		Name: "be", Mode: haproxyv1.Mode_MODE_TCP, Balance: haproxyv1.Balance_BALANCE_ROUNDROBIN,
		ConnectTimeout: second, ServerTimeout: second, QueueTimeout: second, Servers: servers,
	}
	if checked {
		pool.Check = &haproxyv1.Check{Interval: second, Timeout: second, Rise: 2, Fall: 3}
	}
	file, err := config.Render(&haproxyv1.Config{
		Global: &haproxyv1.Global{MaxConnections: 1}, Backends: []*haproxyv1.Backend{pool},
	}, config.Environment{})
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func server(id uint32, change ...func(s *haproxyv1.Server)) *haproxyv1.Server {
	s := &haproxyv1.Server{Backend: "be", Name: fmt.Sprintf("s%d", id), Id: id, Address: "192.0.2.1", Port: 80, Weight: 1}
	for _, f := range change {
		f(s)
	}
	return s
}

// worker that runs the file.
func worker(f *config.File) *Worker {
	w := &Worker{Structure: f.Structure, Servers: make(map[config.Key]Running)}
	for _, s := range f.Servers {
		op := runtime.OpRunning
		if s.Maintenance {
			op = runtime.OpStopped
		}
		w.Servers[s.Key] = Running{Server: s, Op: op}
	}
	return w
}

func down(w *Worker, name string) *Worker {
	key := config.Key{Backend: "be", Name: name}
	have := w.Servers[key]
	have.Op = runtime.OpStopped
	w.Servers[key] = have
	return w
}

var (
	weight0     = func(s *haproxyv1.Server) { s.Weight = 0 }
	weight9     = func(s *haproxyv1.Server) { s.Weight = 9 }
	maintenance = func(s *haproxyv1.Server) { s.Maintenance = true }
	moved       = func(s *haproxyv1.Server) { s.Address = "2001:db8::1" }
	backup      = func(s *haproxyv1.Server) { s.Backup = true }
	limited     = func(s *haproxyv1.Server) { s.MaxConnections = 5 }
	named1      = func(s *haproxyv1.Server) { s.Name = "s1" }
)

func TestMake(t *testing.T) {
	const check = " check inter 1000ms rise 2 fall 3"
	both := target(t, true, server(1), server(2))
	for _, test := range []struct {
		name   string
		worker *Worker
		target *config.File
		want   []string
		reload string
		left   int

		waiting bool
	}{
		{name: "nothing", worker: worker(both), target: both},
		{name: "structure", worker: worker(both), target: target(t, false, server(1), server(2)), reload: "structure"},
		{name: "weight", worker: worker(both), target: target(t, true, server(1), server(2, weight9)), want: []string{"set weight be/s2 9"}},
		{
			name: "what takes traffic comes first", worker: worker(target(t, true, server(1), server(2, weight0))),
			target: target(t, true, server(1, weight0), server(2)),
			want:   []string{"set weight be/s2 1", "set weight be/s1 0"},
		},
		{name: "limit", worker: worker(both), target: target(t, true, server(1), server(2, limited)), want: []string{"set maxconn server be/s2 5"}},
		{name: "maintenance", worker: worker(both), target: target(t, true, server(1), server(2, maintenance)), want: []string{"set server be/s2 state maint"}},
		{
			name: "ready with a new weight", worker: worker(target(t, true, server(1), server(2, maintenance))),
			target: target(t, true, server(1), server(2, weight9)),
			want:   []string{"set weight be/s2 9", "set server be/s2 state ready"},
		},
		{
			name: "move", worker: worker(both), target: target(t, true, server(1), server(2, moved)),
			want: []string{"set server be/s2 health stopping", "set server be/s2 addr 2001:db8::1 port 80"},
		},
		{
			name: "move the only one that serves", worker: down(worker(both), "s1"), target: target(t, true, server(1), server(2, moved)),
			want: []string{"set server be/s2 addr 2001:db8::1 port 80"},
		},
		{
			name: "add", worker: worker(both), target: target(t, true, server(1), server(2), server(3, backup, limited)),
			want: []string{
				"add server be/s3 192.0.2.1:80 id 3 weight 0" + check + " maxconn 5 backup", "enable health be/s3",
				"set server be/s3 state ready", "set server be/s3 health stopping", "set weight be/s3 1",
			},
		},
		{
			name: "add in maintenance", worker: worker(both), target: target(t, true, server(1), server(2), server(3, maintenance)),
			want: []string{"add server be/s3 192.0.2.1:80 id 3 weight 0" + check, "enable health be/s3", "set weight be/s3 1"},
		},
		{
			name: "add the only one", worker: worker(target(t, true)), target: target(t, true, server(3)),
			want: []string{
				"add server be/s3 192.0.2.1:80 id 3 weight 0" + check, "enable health be/s3", "set server be/s3 state ready", "set weight be/s3 1",
			},
		},
		{
			name: "add without checks", worker: worker(target(t, false, server(1))), target: target(t, false, server(1), server(3)),
			want: []string{"add server be/s3 192.0.2.1:80 id 3 weight 0", "set server be/s3 state ready", "set weight be/s3 1"},
		},
		{name: "remove", worker: worker(both), target: target(t, true, server(1)), want: []string{"set server be/s2 state maint", "del server be/s2"}},
		{name: "removed, with connections", worker: worker(target(t, true, server(1), server(2, maintenance))), target: target(t, true, server(1)), left: 1},
		{
			name: "add beside one that is left", worker: worker(target(t, false, server(1), server(2, maintenance))), target: target(t, false, server(1), server(3)),
			want: []string{"add server be/s3 192.0.2.1:80 id 3 weight 0", "set server be/s3 state ready", "set weight be/s3 1"}, left: 1,
		},
		{
			name: "replace", worker: worker(both), target: target(t, true, server(7, named1), server(2)),
			want: []string{"set server be/s1 state maint", "del server be/s1"},
		},
		{name: "backup or not", worker: worker(both), target: target(t, true, server(1), server(2, backup)), want: []string{"set server be/s2 state maint", "del server be/s2"}},
		{
			name: "replace one with connections", worker: worker(target(t, true, server(1, maintenance), server(2))), target: target(t, true, server(7, named1), server(2)),
			want: []string{"set server be/s1 state maint", "del server be/s1"}, waiting: true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Make(test.worker, test.target, true)
			if !slices.Equal(commands(got.Steps), test.want) || len(got.Leftovers) != test.left || got.Waiting != test.waiting {
				t.Errorf("%q, left %v\nwant %q, left %d", commands(got.Steps), got.Leftovers, test.want, test.left)
			}
			if (got.Reload == "") != (test.reload == "") || !strings.Contains(got.Reload, test.reload) {
				t.Errorf("reload %q, want %q", got.Reload, test.reload)
			}
		})
	}
	if got := Make(worker(both), target(t, true, server(1), server(2), server(3)), false); got.Reload == "" {
		t.Errorf("without add server: %+v", got)
	}
}

func commands(steps []Step) []string {
	var all []string
	for _, s := range steps {
		for _, c := range s.Commands {
			all = append(all, c.String())
		}
	}
	return all
}

func TestHandover(t *testing.T) {
	running := worker(target(t, true, server(1), server(2), server(3)))
	for name, test := range map[string]struct {
		target *config.File
		want   []string
	}{
		"same servers":     {target(t, false, server(1), server(2), server(3)), nil},
		"maintenance":      {target(t, false, server(1, maintenance), server(2), server(3)), []string{"set server be/s1 state maint"}},
		"removed":          {target(t, false, server(2), server(3)), []string{"set server be/s1 state maint"}},
		"all are replaced": {target(t, false, server(4)), nil},
		"another id":       {target(t, false, server(8, named1), server(2), server(3)), nil},
	} {
		if got := commands(Handover(running, test.target)); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestCheckStates(t *testing.T) {
	state := func(id uint32, op runtime.Op, change ...func(s *runtime.State)) runtime.State {
		s := runtime.State{
			Key: config.Key{Backend: "be", Name: fmt.Sprintf("s%d", id)}, ID: id, Address: netip.MustParseAddrPort("192.0.2.1:80"),
			Op: op, Weight: 77, CheckState: 6, CheckHealth: 2,
		}
		for _, f := range change {
			f(&s)
		}
		return s
	}
	inMaintenance := func(s *runtime.State) { s.Admin = 1 }
	last := []runtime.State{state(1, runtime.OpRunning), state(2, runtime.OpStopped), state(3, runtime.OpStopped, inMaintenance), state(9, runtime.OpRunning)}
	for name, test := range map[string]struct {
		target *config.File
		want   string
	}{
		"carried, with the target's weight":  {target(t, true, server(1), server(2, weight9)), "s1 op 2 weight 1, s2 op 0 weight 9"},
		"new ones wait":                      {target(t, true, server(1), server(5)), "s1 op 2 weight 1, s5 op 3 weight 1"},
		"moved ones wait":                    {target(t, true, server(1), server(2, moved)), "s1 op 2 weight 1, s2 op 3 weight 1"},
		"new ones do not wait without other": {target(t, true, server(2), server(5)), "s2 op 0 weight 1"},
		"made ready":                         {target(t, true, server(1), server(3)), "s1 op 2 weight 1"},
		"in maintenance":                     {target(t, true, server(1), server(2, maintenance)), "s1 op 2 weight 1"},
		"unchecked":                          {target(t, false, server(1), server(2)), ""},
	} {
		var got []string
		for _, s := range CheckStates(last, test.target) {
			got = append(got, fmt.Sprintf("%s op %d weight %d", s.Name, s.Op, s.Weight))
			if s.Admin != 0 {
				t.Errorf("%s: %+v", name, s)
			}
		}
		if s := strings.Join(got, ", "); s != test.want {
			t.Errorf("%s: %s, want %s", name, s, test.want)
		}
	}
}
