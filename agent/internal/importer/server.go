package importer

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// serverSettings are what a server line or default-server says.
type serverSettings struct {
	checked    bool
	interval   time.Duration
	rise, fall uint32
	port       uint32
	weight     uint32
	maxConn    uint32
	backup     bool
}

// builtInServer is what HAProxy takes for what is not given (manual, 5.2).
var builtInServer = serverSettings{interval: 2 * time.Second, rise: 2, fall: 3, weight: 1}

// words takes the words behind a server's address.
func (s *serverSettings) words(words []string) (err error) {
	for len(words) > 0 && err == nil {
		name := words[0]
		words = words[1:]
		switch name {
		case "check":
			s.checked = true
			continue
		case "no-check":
			s.checked = false
			continue
		case "backup":
			s.backup = true
			continue
		}
		if len(words) == 0 {
			return fmt.Errorf("the model lacks %s", name)
		}
		value := words[0]
		words = words[1:]
		switch name {
		case "inter":
			s.interval, err = parseTime(value)
			if err == nil && (s.interval < 10*time.Millisecond || s.interval > time.Hour) {
				err = fmt.Errorf("the model has check intervals from 10ms to 1h")
			}
		case "rise":
			s.rise, err = number(value, 1, 100)
		case "fall":
			s.fall, err = number(value, 1, 100)
		case "port":
			s.port, err = number(value, 1, 65535)
		case "weight":
			s.weight, err = number(value, 0, 256)
		case "maxconn":
			s.maxConn, err = number(value, 0, maxConnections)
		case "id":
			_, err = number(value, 1, 1<<31-1) // the controller gives its own
		default:
			err = fmt.Errorf("the model lacks %s", name)
		}
	}
	return err
}

// pool collects the servers of a backend.
type pool struct {
	servers []*tandemv1.Backend
	checks  []serverSettings
}

// server takes a server line.
func (p *pool) server(words []string, s *settings) verdict {
	if s.noServers {
		return lacking("its default-server holds what the model lacks")
	}
	if len(words) < 3 || !resourceID.MatchString(words[1]) {
		return lacking("the model has names of 1 to 63 letters, digits, _, . or -")
	}
	at, err := netip.ParseAddrPort(words[2])
	if err != nil || at.Port() == 0 || at.Addr().Zone() != "" || at.Addr().IsUnspecified() {
		return lacking("the model has servers by IP address and port")
	}
	own := s.server
	if err := own.words(words[3:]); err != nil {
		return lacking(err.Error())
	}
	b := &tandemv1.Backend{
		Name: words[1], Address: at.Addr().Unmap().String(), Port: uint32(at.Port()), Backup: own.backup,
	}
	if own.weight != 1 {
		b.Weight = proto.Uint32(own.weight)
	}
	if own.maxConn != 0 {
		b.MaxConnections = proto.Uint32(own.maxConn)
	}
	for _, other := range p.servers {
		if other.GetName() == b.GetName() || other.GetAddress() == b.GetAddress() && other.GetPort() == b.GetPort() {
			return lacking("the model has each name, and each address with its port, once in a pool")
		}
	}
	p.servers = append(p.servers, b)
	p.checks = append(p.checks, own)
	return typed
}

// check is the health check that all servers share.
func (p *pool) check(s *settings) (*tandemv1.HealthCheck, error) {
	shared := s.server
	for n, c := range p.checks {
		if n > 0 && !sameCheck(&c, &shared) {
			return nil, fmt.Errorf("the model has one health check for all servers of a pool")
		}
		shared = c
	}
	if !shared.checked {
		return &tandemv1.HealthCheck{Disabled: true}, nil
	}
	check := &tandemv1.HealthCheck{
		Interval: duration(shared.interval), Rise: proto.Uint32(shared.rise), Fall: proto.Uint32(shared.fall),
	}
	if d, ok := s.timeouts["check"]; ok {
		if d < 10*time.Millisecond || d > time.Hour {
			return nil, fmt.Errorf("the model has check timeouts from 10ms to 1h")
		}
		check.Timeout = duration(d)
	}
	if shared.port != 0 {
		check.Port = proto.Uint32(shared.port)
	}
	if s.httpCheck {
		check.Http = s.check
	}
	return check, nil
}

func sameCheck(a, b *serverSettings) bool {
	return a.checked == b.checked && (!a.checked ||
		a.interval == b.interval && a.rise == b.rise && a.fall == b.fall && a.port == b.port)
}

// sortedByName is the order of an export.
func sortedByName[T interface{ GetName() string }](list []T) {
	slices.SortFunc(list, func(a, b T) int {
		switch {
		case a.GetName() < b.GetName():
			return -1
		case a.GetName() > b.GetName():
			return 1
		default:
			return 0
		}
	})
}
