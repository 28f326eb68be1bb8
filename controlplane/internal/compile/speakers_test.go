package compile

import (
	"testing"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func TestSpeakersOf(t *testing.T) {
	both := []string{"192.0.2.100/24", "2001:db8::100/64"}
	for name, test := range map[string]struct {
		addresses []string
		told      map[string][]string
		agreed    Speakers
		want      Speakers
	}{
		"nobody has told": {both[:1], map[string][]string{"a": nil}, "", ""},
		"the first of each family": {both, map[string][]string{
			"b": {"192.0.2.2", "2001:db8::2", "fe80::2"}, "a": {"192.0.2.1", "192.0.2.9", "fe80::1"},
		}, "", "a=192.0.2.1,fe80::1 b=192.0.2.2,fe80::2"},
		"one family":                 {both[:1], map[string][]string{"a": {"fe80::1", "192.0.2.1"}}, "", "a=192.0.2.1"},
		"IPv6 alone":                 {both[1:], map[string][]string{"a": {"192.0.2.1", "2001:db8::1", "fe80::1"}}, "", "a=fe80::1"},
		"one lacks a family":         {both, map[string][]string{"a": {"192.0.2.1"}, "b": {"192.0.2.2", "fe80::2"}}, "", "b=192.0.2.2,fe80::2"},
		"what was agreed stays":      {both[:1], map[string][]string{"a": {"192.0.2.1", "192.0.2.9"}}, "a=192.0.2.9", "a=192.0.2.9"},
		"another one is new":         {both[:1], map[string][]string{"a": {"192.0.2.1"}}, "a=192.0.2.9", "a=192.0.2.1"},
		"a node more":                {both[:1], map[string][]string{"a": {"192.0.2.1"}, "b": {"192.0.2.2"}}, "a=192.0.2.1", "a=192.0.2.1 b=192.0.2.2"},
		"a node less":                {both[:1], map[string][]string{"a": {"192.0.2.1"}}, "a=192.0.2.1 b=192.0.2.2", "a=192.0.2.1 b=192.0.2.2"},
		"a node without its address": {both[:1], map[string][]string{"a": {"192.0.2.1"}, "b": {}}, "a=192.0.2.1 b=192.0.2.2", "a=192.0.2.1 b=192.0.2.2"},
		"another node in its place":  {both[:1], map[string][]string{"a": {"192.0.2.1"}, "c": {"192.0.2.3"}}, "a=192.0.2.1 b=192.0.2.2", "a=192.0.2.1 c=192.0.2.3"},
		"a family less":              {both[:1], map[string][]string{"a": {"192.0.2.1", "fe80::1"}}, "a=192.0.2.1,fe80::1", "a=192.0.2.1,fe80::1"},
	} {
		got := SpeakersOf(&tandemv1.Vip{Addresses: test.addresses}, test.told, test.agreed)
		if got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
		if again := speakers(got.list()); again != got {
			t.Errorf("%s: %q comes back as %q", name, got, again)
		}
	}
}
