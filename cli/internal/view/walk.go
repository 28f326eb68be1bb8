package view

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// flatten returns every set field of a message by its path.
func flatten(message proto.Message) map[string]string {
	all := map[string]string{}
	if message != nil {
		walk(message.ProtoReflect(), "", func(path, value string) { all[path] = value })
	}
	return all
}

// walk tells visit every set field in the order of the message's definition,
// lists and maps entry by entry, messages field by field.
func walk(message protoreflect.Message, prefix string, visit func(path, value string)) {
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !message.Has(fd) {
			continue
		}
		path := prefix + string(fd.Name())
		value := message.Get(fd)
		switch {
		case fd.IsMap():
			for key, entry := range sortedEntries(value.Map()) {
				walkValue(fd.MapValue(), entry, fmt.Sprintf("%s[%s]", path, key), visit)
			}
		case fd.IsList() && fd.Kind() == protoreflect.MessageKind:
			for j := range value.List().Len() {
				walkValue(fd, value.List().Get(j), fmt.Sprintf("%s[%d]", path, j), visit)
			}
		case fd.IsList():
			visit(path, joined(value.List()))
		default:
			walkValue(fd, value, path, visit)
		}
	}
}

func walkValue(fd protoreflect.FieldDescriptor, value protoreflect.Value, path string, visit func(path, value string)) {
	if fd.Kind() == protoreflect.EnumKind {
		visit(path, enumName(fd.Enum(), value.Enum()))
		return
	}
	if fd.Kind() != protoreflect.MessageKind {
		visit(path, value.String())
		return
	}
	switch m := value.Message().Interface().(type) {
	case *durationpb.Duration:
		visit(path, duration(m))
	case *timestamppb.Timestamp:
		visit(path, m.AsTime().Format(time.RFC3339))
	default:
		if isEmpty(value.Message()) {
			visit(path, "{}")
			return
		}
		walk(value.Message(), path+".", visit)
	}
}

// enumName is the value's name, or its number if it is newer than this lbctl.
func enumName(enum protoreflect.EnumDescriptor, number protoreflect.EnumNumber) string {
	if value := enum.Values().ByNumber(number); value != nil {
		return string(value.Name())
	}
	return strconv.Itoa(int(number))
}

func joined(list protoreflect.List) string {
	var parts []string
	for i := range list.Len() {
		parts = append(parts, list.Get(i).String())
	}
	return strings.Join(parts, ", ")
}

func isEmpty(message protoreflect.Message) bool {
	empty := true
	message.Range(func(protoreflect.FieldDescriptor, protoreflect.Value) bool {
		empty = false
		return false
	})
	return empty
}

// sortedEntries is a map in the order of its keys.
func sortedEntries(entries protoreflect.Map) iter.Seq2[string, protoreflect.Value] {
	var keys []protoreflect.MapKey
	entries.Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, key)
		return true
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return strings.Compare(a.String(), b.String()) })
	return func(yield func(string, protoreflect.Value) bool) {
		for _, key := range keys {
			if !yield(key.String(), entries.Get(key)) {
				return
			}
		}
	}
}
