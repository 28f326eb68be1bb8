package view

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/cli/internal/output"
)

// Detail is a table of all that is set in one resource. What it inherits is
// marked so.
func Detail(resource proto.Message) output.Table {
	t := output.Table{Columns: output.Columns("FIELD", "VALUE")}
	own := flatten(resource)
	walk(resource.ProtoReflect(), "", func(path, value string) {
		field, effective := effectiveField(path)
		_, set := own[field]
		switch {
		case !effective:
			t.Rows = append(t.Rows, cells(path, value))
		case !set:
			t.Rows = append(t.Rows, []output.Cell{output.Text(field), {Text: value + " (inherited)", Tone: output.Faint}})
		}
	})
	return t
}

// effectiveField returns the field whose value in effect a path holds, if it
// holds one.
func effectiveField(path string) (string, bool) {
	if field, found := strings.CutPrefix(path, "effective_defaults."); found {
		return "defaults." + field, true
	}
	return strings.CutPrefix(path, "effective.")
}
