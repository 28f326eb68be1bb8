// Package manifest reads the file that "lbctl apply" takes: one ClusterConfig,
// in YAML or JSON.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"buf.build/go/protoyaml"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// MaxSize bounds a file, in bytes: ten times what 10,000 backends need.
const MaxSize = 16 << 20

// Manifest is a file that was read.
type Manifest struct {
	// Config is what it says.
	Config *tandemv1.ClusterConfig

	name string
	text []byte
}

// Read reads a file; its name is for errors. The error shows the place of each
// mistake. What the fields may hold is the controller's to judge.
func Read(r io.Reader, fileName string) (*Manifest, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fileName, err)
	}
	if len(text) > MaxSize {
		return nil, fmt.Errorf("%s is larger than %d MiB: it must hold one cluster's configuration, as \"lbctl export\" prints it", fileName, MaxSize>>20)
	}
	if err := oneDocument(text); err != nil {
		return nil, fmt.Errorf("%s: %w", fileName, err)
	}
	var ignored map[string]any
	if err := yaml.UnmarshalStrict(text, &ignored); err != nil {
		return nil, fmt.Errorf("%s: %s", fileName, output.CleanLines(strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")))
	}
	m := &Manifest{Config: &tandemv1.ClusterConfig{}, name: fileName, text: text}
	if err := m.parse(m.Config, nil); err != nil {
		return nil, m.cleaned(err)
	}
	if proto.Size(m.Config) == 0 {
		return nil, fmt.Errorf("%s is empty: it must hold at least one of cluster, vips, pools, listeners", fileName)
	}
	return m, nil
}

func (m *Manifest) parse(config *tandemv1.ClusterConfig, check protoyaml.Validator) error {
	return protoyaml.UnmarshalOptions{Path: m.name, Validator: check}.Unmarshal(m.text, config)
}

// oneDocument refuses what the parsers would silently leave out.
func oneDocument(text []byte) error {
	content := false
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line = bytes.TrimRight(line, " \t\r\n")
		switch {
		case bytes.Equal(line, []byte("---")), bytes.HasPrefix(line, []byte("--- ")):
			if content {
				return fmt.Errorf("line %d begins a second document: it must hold one cluster's configuration", number)
			}
		case len(line) > 0 && line[0] != '#':
			content = true
		}
	}
	return nil
}

// Locate shows the places in the file that a refusal of the controller is
// about. Other errors pass unchanged.
func (m *Manifest) Locate(err error) error {
	var refused *failure.Error
	if !errors.As(err, &refused) || len(refused.Violations) == 0 {
		return err
	}
	located := m.parse(&tandemv1.ClusterConfig{}, violations(refused.Violations))
	if located == nil {
		return err
	}
	return &locatedError{cause: err, text: m.cleaned(located).Error()}
}

// locatedError is a refusal with the places in the file.
type locatedError struct {
	cause error
	text  string
}

func (e *locatedError) Error() string { return e.text }
func (e *locatedError) Unwrap() error { return e.cause }

// violations stands in for a validator: it finds just what the controller
// found, so that the parser shows where that is.
type violations []failure.Violation

// Validate returns the controller's violations as the parser expects them.
func (vs violations) Validate(proto.Message) error {
	found := &protovalidate.ValidationError{}
	for _, v := range vs {
		path := strings.TrimPrefix(v.Field, "config.")
		found.Violations = append(found.Violations, &protovalidate.Violation{Proto: &validate.Violation{
			Field:   &validate.FieldPath{Elements: []*validate.FieldPathElement{{FieldName: &path}}},
			Message: proto.String(v.Message),
			RuleId:  proto.String(v.Reason),
		}})
	}
	return found
}

// cleaned makes the parser's words safe for a terminal, without secrets, and says
// what would be right where the parser does not.
func (m *Manifest) cleaned(err error) error {
	text := m.hide(strings.TrimRight(output.CleanLines(err.Error()), "\n"))
	return errors.New(strings.ReplaceAll(text, "invalid number, expected digit",
		"must begin with a digit; a duration is written like 500ms or 2s"))
}
