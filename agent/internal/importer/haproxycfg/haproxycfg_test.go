package haproxycfg

import (
	"slices"
	"strings"
	"testing"
)

func TestWords(t *testing.T) {
	for _, tt := range []struct {
		line      string
		want      []string
		variables []string
	}{
		{line: "", want: nil},
		{line: "  # a comment", want: nil},
		{line: "\tbind  *:80\r", want: []string{"bind", "*:80"}},
		{line: `stats realm HAProxy\ Statistics`, want: []string{"stats", "realm", "HAProxy Statistics"}},
		{line: `stats realm 'HAProxy Statistics'#x`, want: []string{"stats", "realm", "HAProxy Statistics"}},
		// A "#" ends a word that is not quoted, too.
		{line: "stats auth adm:p#w", want: []string{"stats", "auth", "adm:p"}},
		{line: `stats auth adm:p\#w`, want: []string{"stats", "auth", "adm:p#w"}},
		{line: `a 'b"c' "d'e" f'g'"h"`, want: []string{"a", `b"c`, "d'e", "fgh"}},
		{line: `a '' ""`, want: []string{"a", "", ""}},
		{line: `a 'it'\''s'`, want: []string{"a", "it's"}},
		{line: `a '\n' "\n" \x41 "\$X"`, want: []string{"a", `\n`, "\n", "A", "$X"}},
		// What is no escape sequence keeps its backslash.
		{line: `acl x path_reg ^/\d+\.html$`, want: []string{"acl", "x", "path_reg", `^/\d+\.html$`}},
		{line: `a $X '$X' "$X/${HOST}:80"`, want: []string{"a", "$X", "$X", "$X/${HOST}:80"}, variables: []string{"X", "HOST"}},
		{line: `a "${.FILE}"`, want: []string{"a", "${.FILE}"}, variables: []string{".FILE"}},
	} {
		words, variables, err := Words(tt.line)
		if err != nil || !slices.Equal(words, tt.want) || !slices.Equal(variables, tt.variables) {
			t.Errorf("%s: %q, variables %q, %v; want %q, %q", tt.line, words, variables, err, tt.want, tt.variables)
		}
	}
}

func TestWordsRefused(t *testing.T) {
	for _, line := range []string{`a 'b`, `a "b`, `a b\`, `a \x4`, `a \xg0`, `a "$1"`, `a "$"`, strings.Repeat("a ", 65)} {
		if words, _, err := Words(line); err == nil {
			t.Errorf("%s is read as %q", line, words)
		}
	}
}

func TestParse(t *testing.T) {
	f, err := Parse("# one\n\nglobal\n  daemon\ndefaults from base\ndefaults other from base\nfrontend web from other # x\n  bind :80\n\n")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range f.Sections {
		got = append(got, strings.Join([]string{s.Kind, s.Name, s.From}, "/"))
	}
	if want := []string{"global//", "defaults//base", "defaults/other/base", "frontend/web/other"}; !slices.Equal(got, want) {
		t.Errorf("sections %q, want %q", got, want)
	}
	if len(f.Preamble) != 2 || f.Sections[3].Lines[2].Number != 9 {
		t.Errorf("preamble %d lines, last line %+v", len(f.Preamble), f.Sections[3].Lines[2])
	}
}

func TestParseRefused(t *testing.T) {
	for text, want := range map[string]string{
		"bind :80\n":               "line 1 (bind) is in no section",
		"global\n  daemon":         "line 2 is the last one and does not end in a newline, so that HAProxy does not read it: add one",
		"global\n.if defined(X)\n": `line 2 is ".if", which HAProxy decides about at each start: write down the lines that apply`,
		"frontend a b\n":           `line 1 has the word "b" after a section's name`,
		"frontend \"$X\"\n":        "line 1 names a section by the variable X: write its value",
		"global\n\x00\n":           "line 2 holds a NUL character",
		"global\n" + strings.Repeat("a", 2048) + "\n": "line 2 has 2048 characters: HAProxy reads at most 2047",
	} {
		if _, err := Parse(text); err == nil || err.Error() != want {
			t.Errorf("%.40q: %v, want %s", text, err, want)
		}
	}
}

// Whatever the text, no line is lost or doubled, and a word that HAProxy's own
// quoting makes of any text is that text.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"global\n a\n", "frontend x\n  bind '*:80' # c\n\nbackend \"y\"\n", "a \\x41", "global\n \"$X\" 'a\\'\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if file, err := Parse(s); err == nil {
			lines := slices.Clone(file.Preamble)
			for _, section := range file.Sections {
				lines = append(lines, section.Lines...)
			}
			var back strings.Builder
			for n, line := range lines {
				if line.Number != n+1 {
					t.Fatalf("line %d comes as number %d", line.Number, n+1)
				}
				back.WriteString(line.Text + "\n")
			}
			if strings.TrimSuffix(back.String(), "\n") != strings.TrimSuffix(s, "\n") {
				t.Fatalf("%q comes back as %q", s, back.String())
			}
		}
		quoted := "x '" + strings.ReplaceAll(s, "'", `'\''`) + "' y"
		if words, variables, err := Words(quoted); err != nil || len(words) != 3 || words[1] != s || variables != nil {
			t.Fatalf("%q is read as %q, %q, %v", quoted, words, variables, err)
		}
	})
}
