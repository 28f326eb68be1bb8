package failure

import (
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/tandem-lb/tandem/cli/internal/output"
)

// maxGot bounds how much of a wrong value is shown, in bytes.
const maxGot = 80

// valueAt returns what a request holds at a path such as
// "config.pools[0].backends[2].address", quoted. It returns "" for what is not
// there, is no single value, or is a secret.
func valueAt(request proto.Message, path string) string {
	if request == nil || path == "" || path == "name" {
		return "" // a whole name says nothing that the message does not
	}
	message := request.ProtoReflect()
	steps := strings.Split(path, ".")
	for i, step := range steps {
		field, index := splitIndex(step)
		fd := message.Descriptor().Fields().ByName(protoreflect.Name(field))
		if fd == nil || fd.IsMap() || isSecret(fd) {
			return ""
		}
		value := message.Get(fd)
		if fd.IsList() {
			if index < 0 || index >= value.List().Len() {
				return ""
			}
			value = value.List().Get(index)
		} else if !message.Has(fd) {
			return ""
		}
		if fd.Kind() != protoreflect.MessageKind {
			return leaf(value, i == len(steps)-1)
		}
		message = value.Message()
	}
	return ""
}

func leaf(value protoreflect.Value, last bool) string {
	if !last {
		return ""
	}
	text, ok := value.Interface().(string)
	if !ok {
		return value.String()
	}
	text = output.Clean(text)
	if len(text) > maxGot {
		text = strings.ToValidUTF8(text[:maxGot], "") + "…"
	}
	return strconv.Quote(text)
}

// splitIndex splits "pools[3]" into "pools" and 3, "check" into "check" and -1.
func splitIndex(step string) (string, int) {
	field, rest, found := strings.Cut(step, "[")
	if !found {
		return step, -1
	}
	index, err := strconv.Atoi(strings.TrimSuffix(rest, "]"))
	if err != nil {
		return field, -1
	}
	return field, index
}

func isSecret(fd protoreflect.FieldDescriptor) bool {
	options, ok := fd.Options().(*descriptorpb.FieldOptions)
	return ok && options.GetDebugRedact()
}
