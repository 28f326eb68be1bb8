package manifest

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// secretKey matches the key of a field that holds a secret, wherever it is on a
// line.
var secretKey = regexp.MustCompile(`(?i)\b(` + strings.Join(secretNames((&tandemv1.ClusterConfig{}).ProtoReflect().Descriptor()), "|") + `)["']?\s*:`)

// secretNames are the names, in both forms, of the fields below a message that
// the API marks as secrets.
func secretNames(m protoreflect.MessageDescriptor) (names []string) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if options, ok := f.Options().(*descriptorpb.FieldOptions); ok && options.GetDebugRedact() {
			names = append(names, string(f.Name()), f.JSONName())
		} else if f.Message() != nil {
			names = append(names, secretNames(f.Message())...)
		}
	}
	return names
}

// secretLines are the numbers of the lines that may hold a part of a secret:
// those with such a key, and what is below it.
func secretLines(text []byte) map[int]bool {
	lines := map[int]bool{}
	number, below := 0, -1 // the indentation of the key that the line may be below
	for line := range bytes.Lines(text) {
		number++
		content := bytes.TrimLeft(line, " \t")
		indent := len(line) - len(content)
		if bytes.HasPrefix(content, []byte("-")) {
			indent++ // a list may be as far to the left as its key
		}
		switch {
		case secretKey.Match(line):
			below = indent
		case below < 0 || indent <= below && len(bytes.TrimSpace(content)) > 0:
			below = -1
			continue
		}
		lines[number] = true
	}
	return lines
}

// shownLine is a line of the file in the parser's words.
var shownLine = regexp.MustCompile(`(?m)^( *([0-9]+) \| )(.*)$`)

// hide leaves lines that may hold a secret out of the parser's words.
func (m *Manifest) hide(words string) string {
	secret := secretLines(m.text)
	return shownLine.ReplaceAllStringFunc(words, func(line string) string {
		part := shownLine.FindStringSubmatch(line)
		if n, err := strconv.Atoi(part[2]); err != nil || !secret[n] || strings.Trim(part[3], ".^") == "" {
			return line
		}
		return fmt.Sprint(part[1], "(not shown: it may hold a secret)")
	})
}
