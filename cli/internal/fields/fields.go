// Package fields ties command-line flags to the fields of a message, so that a
// command sends what was typed and names just that in its update mask.
package fields

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Field is a flag that sets a field.
type Field struct {
	// Flag is its long name.
	Flag string
	// Path is the field in the message, such as "check.interval". It may be any
	// kind of field but a message (a duration is no message here); a list or a
	// map takes the flag several times.
	Path string
	// Usage explains it.
	Usage string
	// Values are what shells complete it with, if there are only a few.
	Values []string
	// Parse, if set, reads the flag in a way of its own: it gives the fields
	// that the text stands for. An empty value clears the field.
	Parse func(text string) ([]Assignment, error)
	// Type is what help calls the value; needed with Parse only.
	Type string
}

// Assignment gives a field a value, written as on the command line.
type Assignment struct {
	// Path is the field.
	Path string
	// Text is its value; "" clears it.
	Text string
}

// Set is the flags of one command and what was typed for them.
type Set struct {
	message protoreflect.Message
	fields  []Field
	extra   map[string]string
	unset   []string
	paths   []string
}

// Bind registers a flag a field of message's type.
func Bind(flags *pflag.FlagSet, message proto.Message, fields []Field) *Set {
	s := &Set{message: message.ProtoReflect().New(), fields: fields}
	for _, field := range fields {
		value := &flagValue{set: s, field: field}
		flag := flags.VarPF(value, field.Flag, "", field.Usage)
		if value.Type() == "bool" {
			flag.NoOptDefVal = "true"
		}
	}
	return s
}

// BindUnset registers --unset, which clears fields by the names of their
// flags, or by a name in extra, which maps to a field.
func (s *Set) BindUnset(flags *pflag.FlagSet, extra map[string]string) {
	s.extra = extra
	flags.StringSliceVar(&s.unset, "unset", nil,
		"inherit again, or go back to the default: names of flags, such as --unset "+s.UnsetNames()[0])
}

// UnsetNames lists what --unset takes.
func (s *Set) UnsetNames() []string {
	var names []string
	for _, field := range s.fields {
		if field.Path != "" {
			names = append(names, field.Flag)
		}
	}
	for name := range s.extra {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Apply merges what was typed into message and returns the paths for its
// update mask, sorted. Paths that --unset names are in it and not in message.
func (s *Set) Apply(message proto.Message) ([]string, error) {
	cleared, err := s.unsetPaths()
	if err != nil {
		return nil, err
	}
	proto.Merge(message, s.message.Interface())
	paths := slices.Concat(s.paths, cleared)
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

func (s *Set) unsetPaths() ([]string, error) {
	var paths []string
	for _, name := range s.unset {
		path, err := s.unsetPath(strings.TrimLeft(name, "-"))
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func (s *Set) unsetPath(name string) (string, error) {
	path, known := s.extra[name]
	for _, field := range s.fields {
		if field.Path != "" && (field.Flag == name || field.Path == name) {
			path, known = field.Path, true
		}
	}
	if !known {
		return "", fmt.Errorf("--unset must name one of %s (got %q)", strings.Join(s.UnsetNames(), ", "), name)
	}
	for _, set := range s.paths {
		if set == path || strings.HasPrefix(set, path+".") {
			return "", fmt.Errorf("--unset %s and a flag that sets it contradict each other", name)
		}
	}
	return path, nil
}

// Touched reports whether a flag has set the field at path, or one in it.
func (s *Set) Touched(path string) bool {
	return slices.ContainsFunc(s.paths, func(set string) bool {
		return set == path || strings.HasPrefix(set, path+".")
	})
}

func (s *Set) assign(path, text string) error {
	parent, fd, err := locate(s.message, path, text != "")
	if err != nil {
		return err
	}
	if text == "" {
		if parent.IsValid() {
			parent.Clear(fd)
		}
	} else if err := setText(parent, fd, text); err != nil {
		return err
	}
	s.paths = append(s.paths, path)
	return nil
}

// locate finds the field at path and the message that holds it; messages on
// the way are made if create says so.
func locate(message protoreflect.Message, path string, create bool) (protoreflect.Message, protoreflect.FieldDescriptor, error) {
	steps := strings.Split(path, ".")
	for i, step := range steps {
		fd := message.Descriptor().Fields().ByName(protoreflect.Name(step))
		if fd == nil {
			return nil, nil, fmt.Errorf("%s has no field %s", message.Descriptor().FullName(), step)
		}
		if i == len(steps)-1 {
			return message, fd, nil
		}
		if create {
			message = message.Mutable(fd).Message()
		} else {
			message = message.Get(fd).Message()
		}
	}
	return nil, nil, fmt.Errorf("empty path")
}
