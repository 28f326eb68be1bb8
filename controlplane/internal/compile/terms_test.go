package compile

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	keepalivedv1 "github.com/tandem-lb/tandem/gen/tandem/agent/keepalived/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// What a node has confirmed is recognised as the terms that it was given, whatever
// these are: the others wait for that. A node that is no speaker has no instance.
func TestTermsComeBack(t *testing.T) {
	for name, test := range map[string]struct {
		change   *tandemv1.Vip
		speakers Speakers
		out      bool
	}{
		"multicast":           {&tandemv1.Vip{}, "", false},
		"another network":     {&tandemv1.Vip{Network: "back"}, "", false},
		"VRRP on another one": {&tandemv1.Vip{VrrpNetwork: "vrrp"}, "", false},
		"VRRP on its own":     {&tandemv1.Vip{VrrpNetwork: "front"}, "", false},
		"virtual MAC":         {&tandemv1.Vip{VirtualMac: true, Addresses: []string{"192.168.1.110/24"}}, "", false},
		"unicast":             {&tandemv1.Vip{Unicast: proto.Bool(true)}, "UID=192.168.1.11,fe80::11 other=192.168.1.10,fe80::10", false},
		"alone":               {&tandemv1.Vip{Unicast: proto.Bool(true)}, "UID=192.168.1.11,fe80::11", false},
		"no speaker":          {&tandemv1.Vip{Unicast: proto.Bool(true)}, "other=192.168.1.10,fe80::10", true},
		"nobody speaks":       {&tandemv1.Vip{Unicast: proto.Bool(true)}, "", true},
	} {
		v := proto.CloneOf(test.change)
		if v.Vrid = 52; v.Addresses == nil {
			v.Addresses = []string{"192.168.1.110/24", "2001:db8::110/64"}
		}
		c := apply(t, guide(t), state.CreateVip("dual", v))
		uid := c.Node("lb-backup").GetUid()
		speakers := Speakers("")
		for _, s := range test.speakers.list() {
			if s.GetId() == "UID" {
				s.Id = uid
			}
			speakers = speakersOf(speakers, s)
		}
		var compiler Compiler
		got, err := compiler.Node(Target{Structure: c, Runtime: c, Speakers: map[string]Speakers{"dual": speakers}}, "lb-backup")
		if err != nil {
			t.Fatal(err)
		}
		terms, has := got.Terms("dual")
		if has == test.out || has && terms != TermsOf(c, c.Vip("dual"), speakers) {
			t.Errorf("%s: has %v, with %+v, want %+v", name, has, terms, TermsOf(c, c.Vip("dual"), speakers))
		}
		for key, want := range map[string]string{"dual": "192.168.1.11", "dual-v6": "fe80::11"} {
			r := got.parts()[len(got.parts())-1].get(instancePrefix + key)
			if source := r.GetInstance().GetUnicastSource(); has && len(speakers) > 0 && source != want {
				t.Errorf("%s: %s advertises from %q, want %s", name, key, source, want)
			}
		}
	}
}

func speakersOf(s Speakers, one *keepalivedv1.Speaker) Speakers {
	return speakers(append(s.list(), one))
}
