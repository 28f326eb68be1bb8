package kernel

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Ways that a client's packets go: to a holder that has no program, to one that has,
// and by way of the next holder to the previous one.
var ways = []struct {
	name    string
	prepare func(s *service)
	move    bool
}{
	{"without", func(*service) {}, false},
	{"holder", func(s *service) { s.arm() }, false},
	{"forwarded", func(s *service) { s.arm() }, true},
}

// cost reports what the program took for a packet on the machines.
func (s *service) cost(b *testing.B, hosts ...string) (report func()) {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = stats.Close() })
	before := make(map[string]answer)
	for _, host := range hosts {
		before[host] = s.do(host, order{Cost: true})
	}
	return func() {
		for _, host := range hosts {
			now := s.do(host, order{Cost: true})
			if n := now.N - before[host].N; n > 0 {
				b.ReportMetric(float64(now.Spent-before[host].Spent)/float64(n), "ns/packet-"+host)
			}
		}
	}
}

// BenchmarkRequest is a small request and its answer on an established connection.
func BenchmarkRequest(b *testing.B) {
	for _, way := range ways {
		b.Run(way.name, func(b *testing.B) {
			s := newService(b, "10.9.0.100", 24)
			way.prepare(s)
			n := s.dial("a")
			if way.move {
				s.move("a", "b")
			}
			s.is(n, "a")
			report := func() {}
			if way.name != "without" {
				report = s.cost(b, "a")
			}
			if way.move {
				report = s.cost(b, "a", "b")
			}
			b.ResetTimer()
			s.do("client", order{Ask: n, Times: b.N})
			b.StopTimer()
			report()
		})
	}
}

// BenchmarkUpload is a long upload, the direction that is forwarded.
func BenchmarkUpload(b *testing.B) {
	const bytes = 512 << 20
	for _, way := range ways {
		b.Run(way.name, func(b *testing.B) {
			s := newService(b, "10.9.0.100", 24)
			way.prepare(s)
			b.SetBytes(bytes)
			for range b.N {
				b.StopTimer()
				moved := make(chan struct{})
				b.StartTimer()
				go func() {
					defer close(moved)
					if way.move {
						<-time.After(20 * time.Millisecond)
						s.move("a", "b")
					}
				}()
				s.do("client", order{Dial: s.port(), Upload: bytes})
				<-moved
				if way.move {
					b.StopTimer()
					s.move("b", "a")
					b.StartTimer()
				}
			}
		})
	}
}
