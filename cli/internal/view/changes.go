package view

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// Changes is a table of what a revision did, one field a row.
func Changes(changes []*tandemv1.Change) output.Table {
	t := output.Table{Columns: output.Columns("CHANGE", "FIELD", "BEFORE", "AFTER")}
	for _, change := range changes {
		t.Rows = append(t.Rows, changeRows(change)...)
	}
	return t
}

func changeRows(change *tandemv1.Change) [][]output.Cell {
	subject := output.Cell{Text: mark(change) + " " + name.InCluster(change.GetName()), Tone: changeTone(change)}
	before, after := flatten(inner(change.GetBefore())), flatten(inner(change.GetAfter()))
	if change.GetAfter() == nil {
		return [][]output.Cell{{subject, {}, {}, {}}}
	}
	var rows [][]output.Cell
	for _, field := range unionKeys(before, after) {
		if before[field] == after[field] || isBookkeeping(field) {
			continue
		}
		rows = append(rows, []output.Cell{subject, output.Text(field), output.Text(before[field]), output.Text(after[field])})
		subject = output.Cell{}
	}
	if rows == nil {
		rows = [][]output.Cell{{subject, {}, {}, {}}}
	}
	return rows
}

// mark is + for what was made, - for what was removed, ~ for what was changed.
// Lists of revisions hold names only: nothing tells then.
func mark(change *tandemv1.Change) string {
	switch {
	case change.GetBefore() == nil && change.GetAfter() == nil:
		return ""
	case change.GetBefore() == nil:
		return "+"
	case change.GetAfter() == nil:
		return "-"
	default:
		return "~"
	}
}

func changeTone(change *tandemv1.Change) output.Tone {
	return map[string]output.Tone{"+": output.Good, "-": output.Bad, "~": output.Warn}[mark(change)]
}

func inner(resource *tandemv1.Resource) proto.Message {
	if resource == nil {
		return nil
	}
	m := resource.ProtoReflect()
	fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind"))
	if fd == nil {
		return nil
	}
	return m.Get(fd).Message().Interface()
}

// isBookkeeping tells fields that change by themselves.
func isBookkeeping(field string) bool {
	return field == "etag" || field == "name" || strings.HasPrefix(field, "effective")
}

func unionKeys(a, b map[string]string) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}
