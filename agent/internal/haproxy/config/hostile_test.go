package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	haproxyv1 "github.com/tandem-lb/tandem/gen/tandem/agent/haproxy/v1"
)

// tokenize reads a file by the rules of HAProxy's manual (2.2, quoting and
// escaping), independently of how it was written.
func tokenize(text string) ([][]string, error) {
	var lines [][]string
	for number, line := range strings.Split(text, "\n") {
		if i := strings.IndexByte(line, 0); i >= 0 {
			line = line[:i]
		}
		words, err := tokenizeLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number+1, err)
		}
		if len(words) > 0 {
			lines = append(lines, words)
		}
	}
	return lines, nil
}

func tokenizeLine(line string) ([]string, error) {
	var words []string
	var word []byte
	inWord, quote := false, byte(0)
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote == '\'' && c != '\'':
			word = append(word, c)
		case quote != 0 && c == quote:
			quote = 0
		case quote == '"' && c == '$':
			return nil, errors.New("a variable is expanded")
		case c == '\\':
			if i++; i == len(line) {
				return nil, errors.New("ends in a backslash")
			}
			if strings.IndexByte(`ntrx`, line[i]) >= 0 {
				return nil, errors.New("an escape sequence is expanded")
			}
			word, inWord = append(word, line[i]), true
		case quote == '"':
			word = append(word, c)
		case c == '\'', c == '"':
			quote, inWord = c, true
		case c == '#':
			i = len(line)
		case c == ' ', c == '\t', c == '\r':
			if inWord {
				words, word, inWord = append(words, string(word)), nil, false
			}
		default:
			word, inWord = append(word, c), true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if inWord {
		words = append(words, string(word))
	}
	return words, nil
}

func TestTokenize(t *testing.T) {
	lines, err := tokenize("a 'b c' \"d 'e'\" # f\n  g\\ h'i'\"j\" ''\n\n")
	want := [][]string{{"a", "b c", "d 'e'"}, {"g hij", ""}}
	if err != nil || fmt.Sprint(lines) != fmt.Sprint(want) {
		t.Errorf("%q, %v; want %q", lines, err, want)
	}
	for _, bad := range []string{"a 'b", `a "$b"`, `a \n`, `a\`} {
		if lines, err := tokenize(bad); err == nil {
			t.Errorf("%s is %q", bad, lines)
		}
	}
}

// hostile values of every field that takes free text.
type hostile struct {
	user, realm, path, checkPath, host, socket string
}

// config puts the values where they go.
func (h hostile) config() (*haproxyv1.Config, Environment) {
	c := proto.CloneOf(everything())
	c.Global.Stats.Users = []*haproxyv1.User{{Name: h.user, PasswordHash: guide().Global.Stats.Users[0].PasswordHash}}
	c.Global.Stats.Realm, c.Global.Stats.Path = h.realm, h.path
	c.Backends[0].Check.Http.Path, c.Backends[0].Check.Http.Host = h.checkPath, h.host
	env := environment
	env.EventSocket = h.socket
	return c, env
}

var hostileValues = rapid.Custom(func(t *rapid.T) hostile {
	printable := rapid.SampledFrom([]string{
		"'", "''", `"`, `\`, `\\`, `\'`, " ", "  ", "#", "$HOME", "${HOME}", "$", "%", "%[src]", "%%", ";", "{", "}", "|", "`id`",
		"unless", "é", "\u2028", "\xff", "global", "p w", "p#w", "/..", "?", "&", "(", "\u0085", "~", "A",
	})
	piece := printable
	if rapid.IntRange(0, 3).Draw(t, "with control characters") == 0 {
		piece = rapid.OneOf(printable, rapid.StringN(0, 8, 16), rapid.SampledFrom([]string{
			"\n", "\r", "\x00", "\t", "\x7f", "\x1b", "\nfrontend evil\n  bind 127.0.0.1:1\n",
		}))
	}
	text := func(name, prefix string) string {
		return prefix + strings.Join(rapid.SliceOfN(piece, 0, 5).Draw(t, name), "")
	}
	return hostile{
		user: text("user", "u"), realm: text("realm", "r"), path: text("path", "/"),
		checkPath: text("check path", "/"), host: text("host", "h"), socket: text("socket", "/run/"),
	}
})

// accepted renders hostile values; false: they are refused, as they should be.
// The error tells that they have become more than words.
func (h hostile) accepted() (text []byte, ok bool, err error) {
	file, err := Render(h.config())
	if err != nil {
		return nil, false, nil
	}
	plain := hostile{user: "u", realm: "r", path: "/p", checkPath: "/c", host: "h", socket: "/s"}
	twin, err := Render(plain.config())
	if err != nil {
		return nil, false, err
	}
	got, err := tokenize(string(file.Text))
	if err != nil {
		return file.Text, true, err
	}
	want, err := tokenize(strings.ReplaceAll(string(twin.Text), twin.Structure, file.Structure))
	if err != nil {
		return file.Text, true, err
	}
	if len(got) != len(want) {
		return file.Text, true, fmt.Errorf("%d lines, not %d", len(got), len(want))
	}
	values := map[string]string{
		"u": h.user, "r": h.realm, "/p": h.path, "/c": h.checkPath, "/s": h.socket,
		// In a log-format HAProxy makes one % of two.
		"h": strings.ReplaceAll(h.host, "%", "%%"),
	}
	for i, line := range want {
		for j, word := range line {
			if value, ok := values[word]; ok {
				line[j] = value
			}
		}
		if fmt.Sprintf("%q", got[i]) != fmt.Sprintf("%q", line) {
			return file.Text, true, fmt.Errorf("line %q, not %q", got[i], line)
		}
	}
	return file.Text, true, nil
}

// No text from a user becomes a directive (I6).
func TestI6HostileTextStaysText(t *testing.T) {
	acceptedOnes, checked := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		text, ok, err := hostileValues.Draw(t, "values").accepted()
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if !ok {
			return
		}
		acceptedOnes++
		if checked < 15 {
			checked++
			if err := check(t, text); err != nil {
				t.Fatalf("haproxy -c: %v\n%s", err, text)
			}
		}
	})
	if acceptedOnes < 10 {
		t.Errorf("only %d configurations were accepted: the test tests little", acceptedOnes)
	}
}

// The test above must be able to fail.
func TestI6SeededDefectsAreFound(t *testing.T) {
	for name, defect := range map[string]*bool{
		"missing quotes":                  &defectNoQuotes,
		"missing control character check": &defectNoControl,
	} {
		t.Run(name, func(t *testing.T) {
			*defect = true
			defer func() { *defect = false }()
			for seed := range 500 {
				if _, _, err := hostileValues.Example(seed).accepted(); err != nil {
					t.Logf("found with seed %d: %v", seed, err)
					return
				}
			}
			t.Error("not found")
		})
	}
}

func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", "a", "'", `\'`, `"$HOME"`, "a # b", "a\nb", "\x00", "é %"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if checkText(s) != nil {
			return
		}
		lines, err := tokenize("x " + quote(s) + " y")
		if err != nil || len(lines) != 1 || len(lines[0]) != 3 || lines[0][1] != s {
			t.Errorf("%q is read as %q, %v", s, lines, err)
		}
	})
}
