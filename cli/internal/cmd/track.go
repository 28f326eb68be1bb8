package cmd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// trackFlag says what a VIP needs beside a node. It is read when it is typed, as other
// flags are, before anybody looks for a controller.
type trackFlag struct {
	texts  []string
	tracks []*tandemv1.Track
}

const trackUsage = `what the VIP needs beside a node: "gateway [ADDRESS]", "ping ADDRESS", "url URL" or "network NETWORK", with interval=, timeout=, rise=, fall=, weight=, status= behind it; may be repeated`

// trackHelp explains the flag.
const trackHelp = `--track names what the VIP needs beside the node. Each node asks for it
itself; while one does not get it, its weight is added to that node's priority,
so that the VIP goes to a node that does. What all have lost moves nothing.

  --track gateway                  the default gateway, by ARP or the like
  --track 'gateway 192.168.1.1'    another one on the VIP's network
  --track 'ping 192.0.2.1'         a host, by ICMP echo
  --track 'url http://192.168.1.5/up status=200'    a GET
  --track 'network back'           carrier on another network of the nodes

Behind it: interval=1s and timeout=500ms of a question, rise=2 answers in a row
for it to count again, fall=3 questions without one for it to count as lost,
weight=-44 (-56 to -1), status=200-399.`

func (f *trackFlag) bind(cmd *cobra.Command) {
	cmd.Flags().Var(f, "track", trackUsage)
	complete(cmd, "track", fixed("gateway", "ping ", "url http://", "network "))
}

// String returns what was typed, and nothing by default.
func (f *trackFlag) String() string { return strings.Join(f.texts, ",") }

// Type names the kind of value in help.
func (f *trackFlag) Type() string { return strings.Join(trackKinds, "|") }

// Set reads one occurrence of the flag.
func (f *trackFlag) Set(text string) error {
	t, err := parseTrack(text)
	if err != nil {
		return err
	}
	f.texts, f.tracks = append(f.texts, text), append(f.tracks, t)
	return nil
}

var trackKinds = []string{"gateway", "ping", "url", "network"}

func parseTrack(text string) (*tandemv1.Track, error) {
	words := strings.Fields(text)
	if len(words) == 0 || !slices.Contains(trackKinds, words[0]) {
		return nil, errors.New("must begin with gateway, ping, url or network, such as --track gateway or --track 'ping 192.0.2.1'")
	}
	t := &tandemv1.Track{Kind: words[0]}
	for n, word := range words[1:] {
		key, value, option := strings.Cut(word, "=")
		if n == 0 && (!option || t.Kind == "url") {
			t.Target = word
			continue
		}
		if !option {
			return nil, fmt.Errorf("%q is no option: a target comes first, and options such as weight=-20 behind it", word)
		}
		if err := setTrackOption(t, key, value); err != nil {
			return nil, err
		}
	}
	switch _, err := netip.ParseAddr(t.GetTarget()); {
	case t.Kind == "url" && t.GetTarget() == "":
		return nil, errors.New("url needs a URL, such as 'url http://192.168.1.5/up'")
	case t.Kind == "network" && t.GetTarget() == "":
		return nil, errors.New("network needs a network of the nodes, such as 'network back'")
	case t.Kind != "url" && t.Kind != "network" && err != nil && (t.Kind == "ping" || t.GetTarget() != ""):
		return nil, fmt.Errorf("%s needs an IP address, such as '%[1]s 192.168.1.1'", t.Kind)
	}
	return t, nil
}

func setTrackOption(t *tandemv1.Track, key, value string) error {
	wrong := func(would string) error { return fmt.Errorf("%s must be %s (got %q)", key, would, value) }
	switch key {
	case "interval", "timeout":
		d, err := time.ParseDuration(value)
		if err != nil {
			return wrong("a duration such as 500ms")
		}
		if key == "interval" {
			t.Interval = durationpb.New(d)
		} else {
			t.Timeout = durationpb.New(d)
		}
	case "rise", "fall":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return wrong("a whole number")
		}
		if key == "rise" {
			t.Rise = proto.Uint32(uint32(n))
		} else {
			t.Fall = proto.Uint32(uint32(n))
		}
	case "weight":
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil {
			return wrong("a whole number, -56 to -1")
		}
		t.Weight = proto.Int32(int32(n))
	case "status":
		t.ExpectedStatus = value
	default:
		return fmt.Errorf("%q is none of interval=, timeout=, rise=, fall=, weight= and status=", key+"=")
	}
	return nil
}
