package fields

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

var poolFields = []Field{
	{Flag: "balance", Path: "balance"},
	{Flag: "connect-timeout", Path: "connect_timeout"},
	{Flag: "retries", Path: "retries"},
	{Flag: "redispatch", Path: "redispatch"},
	{Flag: "interval", Path: "check.interval"},
	{Flag: "check-host", Path: "check.http.host"},
	{Flag: "check", Type: "request", Parse: func(text string) ([]Assignment, error) {
		if text == "tcp" {
			return []Assignment{{Path: "check.http"}}, nil
		}
		return []Assignment{{Path: "check.http.path", Text: text}}, nil
	}},
}

func TestApply(t *testing.T) {
	tests := []struct {
		name    string
		args    []string
		want    *tandemv1.Pool
		mask    []string
		wantErr string
	}{
		{name: "nothing", want: &tandemv1.Pool{}},
		{
			name: "only what was typed",
			args: []string{"--balance", "leastconn", "--connect-timeout=500ms", "--retries=0", "--interval", "2s"},
			want: &tandemv1.Pool{
				Balance: "leastconn", ConnectTimeout: durationpb.New(500 * time.Millisecond), Retries: proto.Uint32(0),
				Check: &tandemv1.HealthCheck{Interval: durationpb.New(2 * time.Second)},
			},
			mask: []string{"balance", "check.interval", "connect_timeout", "retries"},
		},
		{name: "bool alone", args: []string{"--redispatch"}, want: &tandemv1.Pool{Redispatch: proto.Bool(true)}, mask: []string{"redispatch"}},
		{name: "bool given", args: []string{"--redispatch=false"}, want: &tandemv1.Pool{Redispatch: proto.Bool(false)}, mask: []string{"redispatch"}},
		{name: "empty clears", args: []string{"--balance="}, want: &tandemv1.Pool{}, mask: []string{"balance"}},
		{name: "unset", args: []string{"--unset", "connect-timeout,check"}, want: &tandemv1.Pool{}, mask: []string{"check", "connect_timeout"}},
		{name: "unset by field", args: []string{"--unset", "connect_timeout"}, want: &tandemv1.Pool{}, mask: []string{"connect_timeout"}},
		{name: "own parser sets", args: []string{"--check", "/x"}, want: &tandemv1.Pool{Check: &tandemv1.HealthCheck{Http: &tandemv1.HttpCheck{Path: "/x"}}}, mask: []string{"check.http.path"}},
		{name: "own parser clears", args: []string{"--check", "tcp"}, want: &tandemv1.Pool{}, mask: []string{"check.http"}},
		{name: "bad duration", args: []string{"--interval", "2"}, wantErr: "must be a duration such as 500ms"},
		{name: "bad number", args: []string{"--retries", "-1"}, wantErr: "must be a whole number"},
		{name: "number too large", args: []string{"--retries", "4294967296"}, wantErr: "must be a whole number"},
		{name: "bad bool", args: []string{"--redispatch=maybe"}, wantErr: "must be true or false"},
		{name: "unset of nothing known", args: []string{"--unset", "nonsense"}, wantErr: `--unset must name one of balance, check, check-host, connect-timeout, interval, redispatch, retries (got "nonsense")`},
		{name: "unset and set", args: []string{"--unset", "check", "--interval", "2s"}, wantErr: "contradict"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
			set := Bind(flags, &tandemv1.Pool{}, poolFields)
			set.BindUnset(flags, map[string]string{"check": "check"})
			err := flags.Parse(tt.args)
			got := &tandemv1.Pool{}
			var mask []string
			if err == nil {
				mask, err = set.Apply(got)
			}
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("got error %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if strings.Join(tt.mask, " ") != strings.Join(mask, " ") {
				t.Errorf("mask %v, want %v", mask, tt.mask)
			}
		})
	}
}

func TestListsAndMaps(t *testing.T) {
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	set := Bind(flags, &tandemv1.Vip{}, []Field{{Flag: "address", Path: "addresses"}, {Flag: "priority", Path: "priorities"}})
	err := flags.Parse([]string{"--address", "192.0.2.1/24", "--address", "192.0.2.2/24", "--priority", "a=200", "--priority=b=100"})
	if err != nil {
		t.Fatal(err)
	}
	got := &tandemv1.Vip{}
	mask, err := set.Apply(got)
	if err != nil {
		t.Fatal(err)
	}
	want := &tandemv1.Vip{Addresses: []string{"192.0.2.1/24", "192.0.2.2/24"}, Priorities: map[string]uint32{"a": 200, "b": 100}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if strings.Join(mask, " ") != "addresses priorities" {
		t.Errorf("mask %v", mask)
	}
	if err := flags.Parse([]string{"--priority", "a"}); err == nil || !strings.Contains(err.Error(), "KEY=VALUE") {
		t.Errorf("got %v, want KEY=VALUE asked for", err)
	}
}
