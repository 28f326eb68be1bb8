package target

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// UnknownError tells that a configuration holds something that this version of
// the agent does not know. Rendering the rest would be a guess.
type UnknownError struct {
	// What names the field or value.
	What string
}

// Error implements error.
func (e *UnknownError) Error() string {
	return fmt.Sprintf("this agent does not know %s: it needs a newer lb-agent", e.What)
}

// CheckKnown walks a message and refuses, with an UnknownError, unknown fields
// and enum values.
func CheckKnown(m proto.Message) error {
	return walk(m.ProtoReflect())
}

func walk(m protoreflect.Message) error {
	if raw := m.GetUnknown(); len(raw) > 0 {
		return &UnknownError{What: "a field of " + string(m.Descriptor().Name())}
	}
	var err error
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		err = walkField(fd, v)
		return err == nil
	})
	return err
}

func walkField(fd protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch {
	case fd.IsMap():
		var err error
		v.Map().Range(func(_ protoreflect.MapKey, item protoreflect.Value) bool {
			err = walkValue(fd.MapValue(), item)
			return err == nil
		})
		return err
	case fd.IsList():
		for i := range v.List().Len() {
			if err := walkValue(fd, v.List().Get(i)); err != nil {
				return err
			}
		}
		return nil
	default:
		return walkValue(fd, v)
	}
}

func walkValue(fd protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch {
	case fd.Message() != nil:
		return walk(v.Message())
	case fd.Enum() != nil && fd.Enum().Values().ByNumber(v.Enum()) == nil:
		return &UnknownError{What: fmt.Sprintf("value %d of %s", v.Enum(), fd.FullName())}
	}
	return nil
}
