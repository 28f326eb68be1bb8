package output

import (
	"bytes"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Tone says what a cell means; a terminal shows it as a colour.
type Tone int

// The tones of a cell.
const (
	// Plain is neither good nor bad.
	Plain Tone = iota
	// Good is as it should be.
	Good
	// Warn wants a look.
	Warn
	// Bad wants an action.
	Bad
	// Faint matters little.
	Faint
)

// Cell is one field of a table. Its text need not be clean.
type Cell struct {
	Text string
	Tone Tone
}

// Text is a plain cell.
func Text(text string) Cell { return Cell{Text: text} }

// Column is one column of a table.
type Column struct {
	// Title heads it.
	Title string
	// Wide hides it except in the wide format.
	Wide bool
}

// Table is rows for people to read.
type Table struct {
	Columns []Column
	Rows    [][]Cell
}

// Style is how tables are drawn.
type Style struct {
	// Wide shows every column.
	Wide bool
	// Color shows tones as colours.
	Color bool
}

// Columns makes columns from titles; one that begins with "+" is wide.
func Columns(titles ...string) []Column {
	columns := make([]Column, len(titles))
	for i, title := range titles {
		bare, wide := strings.CutPrefix(title, "+")
		columns[i] = Column{Title: bare, Wide: wide}
	}
	return columns
}

// Write draws the table without borders.
func (t Table) Write(w io.Writer, style Style) error {
	writer := table.NewWriter()
	writer.SetStyle(plain())
	writer.AppendHeader(t.header(style))
	for _, cells := range t.Rows {
		writer.AppendRow(t.row(cells, style))
	}
	var out bytes.Buffer
	for line := range strings.Lines(writer.Render()) {
		out.WriteString(strings.TrimRight(line, " \n"))
		out.WriteByte('\n')
	}
	return write(w, out.Bytes())
}

func plain() table.Style {
	style := table.StyleDefault
	style.Box.PaddingLeft = ""
	style.Box.PaddingRight = "   "
	style.Format.Header = text.FormatDefault
	style.Options = table.OptionsNoBordersAndSeparators
	return style
}

func (t Table) header(style Style) table.Row {
	var row table.Row
	for _, column := range t.Columns {
		if column.Wide && !style.Wide {
			continue
		}
		row = append(row, column.Title)
	}
	return row
}

func (t Table) row(cells []Cell, style Style) table.Row {
	var row table.Row
	for i, cell := range cells {
		if t.Columns[i].Wide && !style.Wide {
			continue
		}
		row = append(row, style.Paint(Clean(cell.Text), cell.Tone))
	}
	return row
}

// Paint gives clean text the colour of its tone, if colours are on.
func (s Style) Paint(text string, tone Tone) string {
	codes := map[Tone]string{Good: "32", Warn: "33", Bad: "31;1", Faint: "2"}
	if !s.Color || text == "" || tone == Plain {
		return text
	}
	return "\x1b[" + codes[tone] + "m" + text + "\x1b[0m"
}
