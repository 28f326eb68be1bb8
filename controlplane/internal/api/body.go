package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
)

// maxViolations bounds the error about a body in which everything is wrong.
const maxViolations = 32

const durationRule = "must be a duration such as 500ms, 5s or 1m30s"

// scanner reads a JSON body along the descriptor of the message that it is to
// become. It finds every field that the message does not have, and every value
// of a wrong kind, with its path, where protojson would name the first one
// without a path; and it rewrites durations such as "500ms" to the one form
// that protojson reads.
type scanner struct {
	tokens     *json.Decoder
	body       []byte
	out        bytes.Buffer // body up to copied, durations rewritten
	copied     int64
	violations []state.Violation
}

// scan returns body with its durations rewritten. The error is a *state.Error
// or a *failure. Paths in it begin with prefix.
func scan(body []byte, message protoreflect.MessageDescriptor, prefix string) ([]byte, error) {
	s := &scanner{tokens: json.NewDecoder(bytes.NewReader(body)), body: body}
	s.tokens.UseNumber()
	token, err := s.tokens.Token()
	if err != nil {
		return nil, s.syntax(err)
	}
	if token != json.Delim('{') {
		return nil, fail(codes.InvalidArgument, reasonBodyInvalid, "the body must be a JSON object, {…}")
	}
	if err := s.object(message, prefix); err != nil {
		return nil, s.syntax(err)
	}
	if _, err := s.tokens.Token(); !errors.Is(err, io.EOF) {
		return nil, fail(codes.InvalidArgument, reasonBodyInvalid, "the body goes on after its JSON object")
	}
	if len(s.violations) > 0 {
		return nil, &state.Error{
			Code: state.Invalid, Reason: s.violations[0].Reason,
			Message: "the request was refused", Violations: s.violations,
		}
	}
	if s.copied == 0 {
		return body, nil
	}
	s.out.Write(body[s.copied:])
	return s.out.Bytes(), nil
}

// syntax says where the body stops being JSON. The position in err is of no
// use: it counts from the token before, sometimes.
func (s *scanner) syntax(err error) error {
	var whole json.RawMessage
	var e *json.SyntaxError
	if !errors.As(json.Unmarshal(s.body, &whole), &e) {
		return fail(codes.InvalidArgument, reasonBodyInvalid, "the body is not JSON: %w", err)
	}
	before := s.body[:e.Offset]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - (bytes.LastIndexByte(before, '\n') + 1)
	return fail(codes.InvalidArgument, reasonBodyInvalid, "the body is not JSON: line %d, column %d: %w", line, column, e)
}

func (s *scanner) violate(path, reason, format string, args ...any) {
	if len(s.violations) < maxViolations {
		s.violations = append(s.violations, state.Violation{Field: path, Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
}

// object reads what follows "{".
func (s *scanner) object(message protoreflect.MessageDescriptor, path string) error {
	seen := map[protoreflect.Name]bool{}
	for s.tokens.More() {
		key, err := s.key()
		if err != nil {
			return err
		}
		field := message.Fields().ByJSONName(key)
		if field == nil {
			field = message.Fields().ByTextName(key)
		}
		if field == nil {
			s.violate(join(path, key), state.ReasonFieldUnknown, "is not a field here; the fields are %s", fieldNames(message))
			if err := s.skip(); err != nil {
				return err
			}
			continue
		}
		at := join(path, string(field.Name()))
		if seen[field.Name()] {
			s.violate(at, state.ReasonFieldInvalid, "is given twice")
		}
		seen[field.Name()] = true
		if err := s.field(field, at); err != nil {
			return err
		}
	}
	return s.close()
}

// field reads a field's value: a list, a map or a single one.
func (s *scanner) field(field protoreflect.FieldDescriptor, path string) error {
	switch {
	case field.IsMap():
		return s.mapping(field.MapValue(), path)
	case field.IsList():
		return s.list(field, path)
	default:
		return s.value(field, path)
	}
}

func (s *scanner) list(field protoreflect.FieldDescriptor, path string) error {
	token, err := s.tokens.Token()
	if err != nil || token == nil {
		return err
	}
	if token != json.Delim('[') {
		s.violate(path, state.ReasonFieldInvalid, "must be a list, […]")
		return s.rest(token)
	}
	for i := 0; s.tokens.More(); i++ {
		if err := s.value(field, path+"["+strconv.Itoa(i)+"]"); err != nil {
			return err
		}
	}
	return s.close()
}

func (s *scanner) mapping(value protoreflect.FieldDescriptor, path string) error {
	token, err := s.tokens.Token()
	if err != nil || token == nil {
		return err
	}
	if token != json.Delim('{') {
		s.violate(path, state.ReasonFieldInvalid, "must be an object, {…}")
		return s.rest(token)
	}
	seen := map[string]bool{}
	for s.tokens.More() {
		key, err := s.key()
		if err != nil {
			return err
		}
		at := path + "[" + strconv.Quote(key) + "]"
		if seen[key] {
			s.violate(at, state.ReasonFieldInvalid, "is given twice")
		}
		seen[key] = true
		if err := s.value(value, at); err != nil {
			return err
		}
	}
	return s.close()
}

// value reads one value: an object, a duration or a scalar.
func (s *scanner) value(field protoreflect.FieldDescriptor, path string) error {
	begin := s.tokens.InputOffset()
	token, err := s.tokens.Token()
	if err != nil || token == nil { // null leaves a field unset
		return err
	}
	message := field.Message()
	switch {
	case message == nil:
		if rule := scalarRule(field.Kind(), token); rule != "" {
			s.violate(path, state.ReasonFieldInvalid, "%s", rule)
		}
		return s.rest(token)
	case message.FullName() == "google.protobuf.Duration":
		s.duration(token, begin, path)
		return s.rest(token)
	case message.FullName() == "google.protobuf.Timestamp":
		text, ok := token.(string)
		if _, err := time.Parse(time.RFC3339, text); !ok || err != nil {
			s.violate(path, state.ReasonFieldInvalid, "must be a time such as 2026-01-31T12:00:00Z")
		}
		return s.rest(token)
	case token == json.Delim('{'):
		return s.object(message, path)
	default:
		s.violate(path, state.ReasonFieldInvalid, "must be an object, {…}")
		return s.rest(token)
	}
}

// duration rewrites a duration to seconds. begin is where the input stood
// before the token.
func (s *scanner) duration(token json.Token, begin int64, path string) {
	text, ok := token.(string)
	seconds, err := durationText(text)
	if !ok || err != nil {
		s.violate(path, state.ReasonFieldInvalid, durationRule)
		return
	}
	s.out.Write(s.body[s.copied:begin])
	// Between two tokens there is at most punctuation and white space.
	between := s.body[begin:s.tokens.InputOffset()]
	s.out.Write(between[:bytes.IndexByte(between, '"')])
	s.out.WriteString(strconv.Quote(seconds))
	s.copied = s.tokens.InputOffset()
}

// durationText turns Go's form of a duration, "1m30s", into protobuf's, "90s".
func durationText(text string) (string, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return "", err
	}
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	return fmt.Sprintf("%s%d.%09ds", sign, d/time.Second, d%time.Second), nil
}

// scalarRule says what would be right when token cannot be a value of kind.
func scalarRule(kind protoreflect.Kind, token json.Token) string {
	switch kind {
	case protoreflect.StringKind:
		if _, ok := token.(string); !ok {
			return `must be text in quotes`
		}
	case protoreflect.BoolKind:
		if _, ok := token.(bool); !ok {
			return "must be true or false"
		}
	case protoreflect.Uint32Kind:
		return integerRule(token, 0, math.MaxUint32)
	case protoreflect.Int32Kind:
		return integerRule(token, math.MinInt32, math.MaxInt32)
	default: // protojson refuses what is wrong, without a path
	}
	return ""
}

// integerRule takes numbers in quotes too, as protojson does. The field's own
// bounds, which are narrower, are checked later.
func integerRule(token json.Token, lowest, highest float64) string {
	var text string
	switch t := token.(type) {
	case json.Number:
		text = t.String()
	case string:
		text = t
	}
	n, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil || n != math.Trunc(n):
		return "must be a whole number"
	case n < lowest && lowest == 0:
		return "must not be negative"
	case n < lowest || n > highest:
		return "is out of range"
	}
	return ""
}

// key reads an object's key; the decoder lets nothing else stand there.
func (s *scanner) key() (string, error) {
	token, err := s.tokens.Token()
	key, _ := token.(string)
	return key, err
}

// close reads the bracket that ends an object or a list.
func (s *scanner) close() error {
	_, err := s.tokens.Token()
	return err
}

// skip reads one whole value.
func (s *scanner) skip() error {
	token, err := s.tokens.Token()
	if err != nil {
		return err
	}
	return s.rest(token)
}

// rest reads what is left of the value that begins with token.
func (s *scanner) rest(token json.Token) error {
	depth := 0
	for {
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
		var err error
		if token, err = s.tokens.Token(); err != nil {
			return err
		}
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func fieldNames(message protoreflect.MessageDescriptor) string {
	var names []string
	for i := range message.Fields().Len() {
		names = append(names, message.Fields().Get(i).TextName())
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
