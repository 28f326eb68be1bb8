package state

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Nothing that a request touches can have a port that something else has.
func TestReservedPorts(t *testing.T) {
	const owner = "lb-controller (--grpc-listen) on lb-master"
	everywhere := []Reserved{{Port: 9443, Owner: owner}}
	one := []Reserved{{Address: netip.MustParseAddr("192.168.1.10"), Port: 9443, Owner: owner}}
	listener := func(b *tandemv1.Bind) Change {
		return CreateListener("new", &tandemv1.Listener{Binds: []*tandemv1.Bind{b}, Pool: "p"})
	}
	for name, test := range map[string]struct {
		reserved []Reserved
		change   Change
		refused  string // the field; empty: it is taken
	}{
		"every address":                 {everywhere, listener(&tandemv1.Bind{Port: 9443}), "listener.binds[0].port"},
		"a VIP":                         {everywhere, listener(&tandemv1.Bind{Vip: "web", Port: 9443}), "listener.binds[0].port"},
		"an address":                    {everywhere, listener(&tandemv1.Bind{Address: "10.0.0.1", Port: 9443}), "listener.binds[0].port"},
		"a range":                       {everywhere, listener(&tandemv1.Bind{Port: 9000, PortEnd: 9999}), "listener.binds[0].port"},
		"another port":                  {everywhere, listener(&tandemv1.Bind{Port: 9444}), ""},
		"every address, one reserved":   {one, listener(&tandemv1.Bind{Port: 9443}), "listener.binds[0].port"},
		"that address":                  {one, listener(&tandemv1.Bind{Address: "192.168.1.10", Port: 9443}), "listener.binds[0].port"},
		"another address, one reserved": {one, listener(&tandemv1.Bind{Vip: "web", Port: 9443}), ""},
		"statistics page": {everywhere, UpdateCluster(&tandemv1.Cluster{Name: "clusters/default", StatsPage: &tandemv1.StatsPage{
			Port: proto.Uint32(9443), Users: []*tandemv1.StatsUser{{Name: "admin", Password: "password123"}}}}, nil), "cluster.stats_page.port"},
		"untouched": {[]Reserved{{Port: 80, Owner: owner}}, listener(&tandemv1.Bind{Port: 9443}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			base := apply(t, New("default", "epoch", 0), CreateCluster(nil), CreatePool("p", &tandemv1.Pool{}),
				CreateVip("web", &tandemv1.Vip{Addresses: []string{"192.168.1.100/24"}, Vrid: 51}),
				CreateListener("old", &tandemv1.Listener{Binds: []*tandemv1.Bind{{Port: 80}}, Pool: "p"}))
			_, _, err := base.Apply(test.change, Env{Now: time.Unix(1700000000, 0), Author: "test", Reserved: test.reserved})
			if test.refused == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var refused *Error
			if !errors.As(err, &refused) || len(refused.Violations) != 1 || refused.Violations[0].Field != test.refused ||
				refused.Violations[0].Reason != ReasonPortReserved || !strings.Contains(refused.Error(), owner) {
				t.Errorf("got %v; want %s refused", err, test.refused)
			}
		})
	}
}
