package state

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// merge returns old with the fields of x that the mask names; a named field
// that x does not set is cleared. Without a mask every field that x sets is
// taken: messages field by field, lists and maps as a whole. Neither old nor x
// is changed.
func merge[V proto.Message](old, x V, mask *fieldmaskpb.FieldMask) (V, error) {
	out := proto.CloneOf(old)
	dst, src := out.ProtoReflect(), proto.CloneOf(x).ProtoReflect()
	if len(mask.GetPaths()) == 0 {
		overlay(dst, src)
		return out, nil
	}
	for _, path := range mask.GetPaths() {
		if path == "*" {
			fields := dst.Descriptor().Fields()
			for i := range fields.Len() {
				copyField(dst, src, fields.Get(i))
			}
			continue
		}
		if !mergePath(dst, src, strings.Split(path, ".")) {
			return out, invalid("update_mask", ReasonFieldUnknown,
				"%q is not a field of %s", path, dst.Descriptor().Name())
		}
	}
	return out, nil
}

// overlay sets in dst what is set in src.
func overlay(dst, src protoreflect.Message) {
	src.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if mergeable(fd) {
			overlay(dst.Mutable(fd).Message(), v.Message())
		} else {
			dst.Set(fd, v)
		}
		return true
	})
}

// mergePath copies the one field that the path leads to; false: there is none.
func mergePath(dst, src protoreflect.Message, path []string) bool {
	fd := dst.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	if fd == nil {
		return false
	}
	if len(path) == 1 {
		copyField(dst, src, fd)
		return true
	}
	if !mergeable(fd) {
		return false
	}
	if !dst.Has(fd) && !src.Has(fd) { // nothing to clear, but is it a field?
		return mergePath(dst.NewField(fd).Message(), src.NewField(fd).Message(), path[1:])
	}
	return mergePath(dst.Mutable(fd).Message(), src.Get(fd).Message(), path[1:])
}

func copyField(dst, src protoreflect.Message, fd protoreflect.FieldDescriptor) {
	if src.Has(fd) {
		dst.Set(fd, src.Get(fd))
	} else {
		dst.Clear(fd)
	}
}

// mergeable tells whether a field is one of our messages; durations and
// timestamps are values.
func mergeable(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() != nil && !fd.IsList() && !fd.IsMap() &&
		!strings.HasPrefix(string(fd.Message().FullName()), "google.protobuf.")
}
