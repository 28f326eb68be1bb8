package importer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Manifest is the file that "lbctl apply -f" takes, in YAML, its fields in the
// order of the schema. It holds passwords.
func Manifest(c *tandemv1.ClusterConfig) ([]byte, error) {
	var w bytes.Buffer
	if err := writeMessage(&w, c.ProtoReflect(), 0, ""); err != nil {
		return nil, err
	}
	return w.Bytes(), nil
}

// writeMessage writes the fields of a message, the first one behind lead.
func writeMessage(w *bytes.Buffer, m protoreflect.Message, depth int, lead string) error {
	fields := m.Descriptor().Fields()
	byNumber := make([]protoreflect.FieldDescriptor, 0, fields.Len())
	for n := range fields.Len() {
		if m.Has(fields.Get(n)) {
			byNumber = append(byNumber, fields.Get(n))
		}
	}
	slices.SortFunc(byNumber, func(a, b protoreflect.FieldDescriptor) int { return int(a.Number() - b.Number()) })
	for _, field := range byNumber {
		if lead == "" {
			lead = strings.Repeat("  ", depth)
		}
		w.WriteString(lead + string(field.Name()) + ":")
		lead = ""
		if err := writeField(w, m, field, depth); err != nil {
			return err
		}
	}
	return nil
}

func writeField(w *bytes.Buffer, m protoreflect.Message, field protoreflect.FieldDescriptor, depth int) error {
	value := m.Get(field)
	isMessage := field.Message() != nil && field.Message().FullName() != "google.protobuf.Duration"
	switch {
	case field.IsList() && isMessage:
		w.WriteByte('\n')
		for n := range value.List().Len() {
			item := value.List().Get(n).Message()
			if err := writeMessage(w, item, depth+1, strings.Repeat("  ", depth)+"- "); err != nil {
				return err
			}
		}
		return nil
	case isMessage && !field.IsMap():
		w.WriteByte('\n')
		return writeMessage(w, value.Message(), depth+1, "")
	}
	// What is left, scalars and lists and maps of them, is on one line in JSON,
	// which YAML reads too.
	alone := m.New()
	alone.Set(field, value)
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(alone.Interface())
	if err != nil {
		return err
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(text, &parts); err != nil {
		return err
	}
	// protojson puts spaces in at random.
	var compact bytes.Buffer
	if err := json.Compact(&compact, parts[string(field.Name())]); err != nil {
		return err
	}
	w.WriteString(" " + plain(compact.String()) + "\n")
	return nil
}

// plain leaves the quotes of words out that are a string without them too.
func plain(text string) string {
	if word, ok := strings.CutPrefix(text, `"`); ok {
		word = strings.TrimSuffix(word, `"`)
		if isWord(word) {
			return word
		}
	}
	return text
}

// isWord tells whether YAML takes the text for a string as it stands, whatever
// its version: it begins with a letter and is none of its words for true,
// false and nothing.
func isWord(s string) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		other := '0' <= c && c <= '9' || c == '_' || c == '-' || c == '.' || c == '/'
		if !letter && (i == 0 || !other) {
			return false
		}
	}
	return s != "" && !slices.Contains([]string{"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}, strings.ToLower(s))
}

// Peer is what is read of another node of the pair: its VRRP only, since
// HAProxy's file is the same on both.
type Peer struct {
	// ID of the peer in the cluster.
	ID string
	// Keepalived is its keepalived.conf.
	Keepalived Source
}

// Merge adds a peer's priorities to the VIPs. The error tells where the two
// nodes differ in what must be alike, lest both hold a VIP, or what of the
// peer's file stands in the way.
func (i *Import) Merge(p Peer, networks map[string]string) error {
	other, err := readKeepalived(Node{ID: p.ID, Networks: networks, Keepalived: p.Keepalived})
	if err != nil {
		return fmt.Errorf("%s: %w", p.Keepalived.Path, err)
	}
	for _, l := range other.lines.list {
		if l.Fate == Refused {
			return fmt.Errorf("%s:%d: %s: %s", p.Keepalived.Path, l.Number, strings.TrimSpace(l.Shown()), l.Reason)
		}
	}
	if own := i.Config.GetCluster().GetVrrp(); !proto.Equal(own, other.vrrp) {
		return fmt.Errorf("%s and %s differ in VRRP's version, interval or password: both nodes would hold the VIP",
			i.Keepalived.Path, p.Keepalived.Path)
	}
	if len(i.Config.GetVips()) != len(other.vips) {
		return fmt.Errorf("%s has %d VIPs and %s has %d: give both nodes the same",
			i.Keepalived.Path, len(i.Config.GetVips()), p.Keepalived.Path, len(other.vips))
	}
	for n, own := range i.Config.GetVips() {
		theirs := other.vips[n]
		twin := proto.CloneOf(theirs)
		twin.Priorities = own.GetPriorities()
		if !proto.Equal(twin, own) {
			return fmt.Errorf("%s is not alike on %s: VRID, addresses, interface, interval, preemption, unicast and virtual MAC must be the same on both nodes",
				own.GetName(), p.ID)
		}
		own.Priorities[p.ID] = theirs.GetPriorities()[p.ID]
	}
	return nil
}

const (
	// maxPriority and maxGap are the model's (docs/decisions/0006-scores.md).
	maxPriority = 234
	maxGap      = 21
	step        = 10
)

// FitPriorities brings priorities into the range that the model has, in the
// same order, and returns what it changed in words.
func (i *Import) FitPriorities() []string {
	var said []string
	for _, v := range i.Config.GetVips() {
		before := v.GetPriorities()
		after := fit(before)
		for node, p := range after {
			if before[node] != p {
				said = append(said, fmt.Sprintf("VIP %s: priority of %s becomes %d instead of %d: Tandem has priorities up to %d, at most %d apart",
					v.GetName(), node, p, before[node], maxPriority, maxGap))
			}
		}
		v.Priorities = after
	}
	slices.Sort(said)
	return said
}

// fit keeps what fits; else the highest stays as near as possible and the
// others follow in steps.
func fit(priorities map[string]uint32) map[string]uint32 {
	nodes := make([]string, 0, len(priorities))
	for node := range priorities {
		nodes = append(nodes, node)
	}
	slices.SortFunc(nodes, func(a, b string) int {
		if d := int(priorities[b]) - int(priorities[a]); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	if len(nodes) == 0 {
		return priorities
	}
	highest, lowest := priorities[nodes[0]], priorities[nodes[len(nodes)-1]]
	if highest <= maxPriority && highest-lowest <= maxGap {
		return priorities
	}
	fitted := make(map[string]uint32, len(nodes))
	top := max(min(highest, maxPriority), maxGap+1)
	for rank, node := range nodes {
		fitted[node] = top - uint32(min(rank*step, maxGap))
		if rank > 0 && priorities[node] == priorities[nodes[rank-1]] {
			fitted[node] = fitted[nodes[rank-1]]
		}
	}
	return fitted
}
