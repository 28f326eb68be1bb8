package keepalivedconf

import (
	"fmt"
	"strings"
	"testing"
)

// shape writes statements on one line.
func shape(list []Statement) string {
	var parts []string
	for _, s := range list {
		text := fmt.Sprintf("%d:%s", s.Line, strings.Join(s.Words, "|"))
		if s.HasBlock {
			text += fmt.Sprintf("{%s}%d", shape(s.Block), s.Close)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		"! a\n# b\n":              "",
		"a b ! c\nd#e\n":          "1:a|b 2:d",
		"a \"b c\" d":             "1:a|b c|d",
		"a { b c }\n":             "1:a{1:b|c}1",
		"a\n{\n  b\n}\n":          "1:a{3:b}4",
		"a {\n b {\n  c\n }\n}":   "1:a{2:b{3:c}4}5",
		"a { b } c":               "1:a{1:b}1 1:c",
		"a{b}\n":                  "1:a{1:b}1",
		"a { }\n\tb \"!#{}\"\r\n": "1:a{}1 2:b|!#{}",
	} {
		got, err := Parse(text)
		if err != nil || shape(got) != want {
			t.Errorf("%q: %s, %v; want %s", text, shape(got), err, want)
		}
	}
}

func TestParseRefused(t *testing.T) {
	for text, want := range map[string]string{
		"a {\n":                     "line 1 opens a block that is never closed",
		"a\n}\n":                    "line 2 closes a block that was never opened",
		"{ }\n":                     "line 1 opens a block that belongs to nothing",
		"a { } { }\n":               "line 1 opens a block that belongs to nothing",
		"a \"b\n":                   "line 1 has a quote that is not closed",
		"a b\"c\"\n":                "line 1 has a quote inside a word",
		"a \"b\"c\n":                "line 1 goes on behind a closing quote without a space",
		"a $B\n":                    "line 1 uses a definition ($…), which keepalived fills in: write what it stands for",
		"\n@one a\n":                "line 2 begins with @one, which keepalived reads on some machines only: write down the lines that apply to this one",
		"include /etc/x\n":          "line 1 includes other files: put their text in its place",
		"a \\\nb\n":                 "line 1 holds a backslash, which keepalived reads in its own ways: write it without",
		"a ~SEQ\n":                  "line 1 holds a ~, which keepalived may expand: write down the lines that it stands for",
		"a\x01\n":                   "line 1 holds a control character",
		strings.Repeat("a {\n", 20): "line 17 opens a block inside too many others",
	} {
		if got, err := Parse(text); err == nil || err.Error() != want {
			t.Errorf("%q: %s, %v; want %s", text, shape(got), err, want)
		}
	}
}

// Whatever the text, what is read of it, written down again, is read alike.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a b\n", "a { b }\nc {\n d \"e f\" !g\n}\n", "{", "}", "a \"", "@x y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(write(list))
		if err != nil || write(again) != write(list) {
			t.Fatalf("%q becomes %q, then %q, %v", s, write(list), write(again), err)
		}
	})
}

func write(list []Statement) string {
	var w strings.Builder
	for _, s := range list {
		for _, word := range s.Words {
			w.WriteString(`"` + word + `" `)
		}
		if s.HasBlock {
			w.WriteString("{\n" + write(s.Block) + "}")
		}
		w.WriteByte('\n')
	}
	return w.String()
}
