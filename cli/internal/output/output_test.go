package output

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

func TestClean(t *testing.T) {
	tests := []struct{ in, want, lines string }{
		{"plain ünïcode 日本", "plain ünïcode 日本", "plain ünïcode 日本"},
		{"a\nb\tc", "a b c", "a\nb c"},
		{"\x1b[31mred\x1b[0m", "[31mred[0m", "[31mred[0m"},
		{"bell\x07 del\x7f c1\u009b2J", "bell del c12J", "bell del c12J"},
		{"bidi\u202etxt.exe\u2066", "biditxt.exe", "biditxt.exe"},
		{"line\u2028sep\r\n", "linesep ", "linesep\n"},
	}
	for _, tt := range tests {
		if got := Clean(tt.in); got != tt.want {
			t.Errorf("Clean(%q) = %q, want %q", tt.in, got, tt.want)
		}
		if got := CleanLines(tt.in); got != tt.lines {
			t.Errorf("CleanLines(%q) = %q, want %q", tt.in, got, tt.lines)
		}
	}
}

func TestWriteJSONIsTheMessageInSafeBytes(t *testing.T) {
	message := &tandemv1.Event{Message: "a\x1b[2J\u009b\x7fé", Reason: "X"}
	for _, write := range []func(*bytes.Buffer) error{
		func(b *bytes.Buffer) error { return WriteJSON(b, message) },
		func(b *bytes.Buffer) error { return WriteJSONLine(b, message) },
	} {
		var out bytes.Buffer
		if err := write(&out); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(out.String(), "\x1b\x7f\u009b") {
			t.Errorf("control characters in %q", out.String())
		}
		var back tandemv1.Event
		if err := protojson.Unmarshal(out.Bytes(), &back); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(message, &back) {
			t.Errorf("got %v, want %v", &back, message)
		}
	}
}

func TestWriteJSONShowsEmptyLists(t *testing.T) {
	var out bytes.Buffer
	if err := WriteJSON(&out, &tandemv1.ListPoolsResponse{}); err != nil {
		t.Fatal(err)
	}
	var value struct{ Pools []any }
	if err := json.Unmarshal(out.Bytes(), &value); err != nil || value.Pools == nil {
		t.Errorf("pools must be an empty list for scripts: %v in %s", err, out.String())
	}
}

func TestWriteNames(t *testing.T) {
	list := &tandemv1.ListPoolsResponse{Pools: []*tandemv1.Pool{{Name: "clusters/a/pools/b"}, {Name: "clusters/a/pools/c"}}}
	tests := []struct {
		message proto.Message
		want    string
	}{
		{list, "clusters/a/pools/b\nclusters/a/pools/c\n"},
		{list.Pools[0], "clusters/a/pools/b\n"},
		{&tandemv1.ListPoolsResponse{}, ""},
	}
	for _, tt := range tests {
		var out bytes.Buffer
		if err := WriteNames(&out, tt.message); err != nil || out.String() != tt.want {
			t.Errorf("got %q, %v; want %q", out.String(), err, tt.want)
		}
	}
}

func TestWriteYAMLUsesFileNames(t *testing.T) {
	var out bytes.Buffer
	weight := uint32(3)
	if err := WriteYAML(&out, &tandemv1.Backend{Address: "192.0.2.1", Port: 80, MaxConnections: &weight}); err != nil {
		t.Fatal(err)
	}
	if want := "address: 192.0.2.1\nport: 80\nmax_connections: 3\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestTable(t *testing.T) {
	table := Table{
		Columns: Columns("NAME", "STATE", "+ETAG"),
		Rows: [][]Cell{
			{Text("web1"), {Text: "UP", Tone: Good}, Text("e1")},
			{Text("web_long_name"), {Text: "DOWN\x1b[2J", Tone: Bad}, Text("")},
		},
	}
	tests := []struct {
		name  string
		style Style
		want  string
	}{
		{"plain", Style{}, "NAME            STATE\nweb1            UP\nweb_long_name   DOWN[2J\n"},
		{"wide", Style{Wide: true}, "NAME            STATE     ETAG\nweb1            UP        e1\nweb_long_name   DOWN[2J\n"},
		{"colour", Style{Color: true}, "NAME            STATE\nweb1            \x1b[32mUP\x1b[0m\nweb_long_name   \x1b[31;1mDOWN[2J\x1b[0m\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := table.Write(&out, tt.style); err != nil {
				t.Fatal(err)
			}
			if out.String() != tt.want {
				t.Errorf("got\n%q\nwant\n%q", out.String(), tt.want)
			}
		})
	}
}

func TestFormatFlag(t *testing.T) {
	var format Format
	if err := format.Set("json"); err != nil || format != FormatJSON {
		t.Errorf("Set(json) = %v, %v", format, err)
	}
	if err := format.Set("xml"); err == nil || !strings.Contains(err.Error(), "table, wide, json, yaml, name") {
		t.Errorf("Set(xml) = %v, want an error that lists the formats", err)
	}
}
