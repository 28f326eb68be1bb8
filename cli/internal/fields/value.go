package fields

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

const durationName = "google.protobuf.Duration"

// flagValue is the pflag.Value of one field.
type flagValue struct {
	set   *Set
	field Field
	text  []string
}

// String returns what was typed; it is empty by default, because defaults are
// the controller's.
func (v *flagValue) String() string { return strings.Join(v.text, ",") }

// Set reads one occurrence of the flag.
func (v *flagValue) Set(text string) error {
	v.text = append(v.text, text)
	if v.field.Parse == nil {
		return v.set.assign(v.field.Path, text)
	}
	assignments, err := v.field.Parse(text)
	if err != nil {
		return err
	}
	for _, a := range assignments {
		if err := v.set.assign(a.Path, a.Text); err != nil {
			return err
		}
	}
	return nil
}

// Type names the kind of value in help.
func (v *flagValue) Type() string {
	if v.field.Parse != nil {
		return v.field.Type
	}
	_, fd, err := locate(v.set.message.New(), v.field.Path, true)
	if err != nil {
		panic(err) // a flag for a field that does not exist, seen by every test
	}
	switch {
	case fd.IsMap():
		return "key=value"
	case isDuration(fd):
		return "duration"
	case fd.Kind() == protoreflect.BoolKind:
		return "bool"
	case fd.Kind() == protoreflect.StringKind:
		return "string"
	default:
		return "number"
	}
}

func setText(message protoreflect.Message, fd protoreflect.FieldDescriptor, text string) error {
	switch {
	case fd.IsMap():
		return setEntry(message.Mutable(fd).Map(), fd, text)
	case fd.IsList():
		value, err := scalar(fd, text)
		if err != nil {
			return err
		}
		message.Mutable(fd).List().Append(value)
	case isDuration(fd):
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("must be a duration such as 500ms, 2s or 1m30s")
		}
		message.Set(fd, protoreflect.ValueOfMessage(durationpb.New(d).ProtoReflect()))
	default:
		value, err := scalar(fd, text)
		if err != nil {
			return err
		}
		message.Set(fd, value)
	}
	return nil
}

func setEntry(entries protoreflect.Map, fd protoreflect.FieldDescriptor, text string) error {
	key, valueText, found := strings.Cut(text, "=")
	if !found || key == "" {
		return fmt.Errorf("must be KEY=VALUE")
	}
	value, err := scalar(fd.MapValue(), valueText)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	entries.Set(protoreflect.ValueOfString(key).MapKey(), value)
	return nil
}

func scalar(fd protoreflect.FieldDescriptor, text string) (protoreflect.Value, error) {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text), nil
	case protoreflect.BoolKind:
		value, err := strconv.ParseBool(text)
		if err != nil {
			return protoreflect.Value{}, fmt.Errorf("must be true or false")
		}
		return protoreflect.ValueOfBool(value), nil
	case protoreflect.Uint32Kind:
		value, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return protoreflect.Value{}, fmt.Errorf("must be a whole number that is not negative")
		}
		return protoreflect.ValueOfUint32(uint32(value)), nil
	default:
		return protoreflect.Value{}, fmt.Errorf("a field of kind %v is not for flags", fd.Kind())
	}
}

func isDuration(fd protoreflect.FieldDescriptor) bool {
	return fd.Kind() == protoreflect.MessageKind && !fd.IsList() && !fd.IsMap() && fd.Message().FullName() == durationName
}
