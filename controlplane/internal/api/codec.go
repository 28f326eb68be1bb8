package api

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	spb "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// carried takes an error whole through the gateway, which keeps nothing of a
// decoder's error but its text: the text is the status as JSON.
type carried struct{ status *status.Status }

func carry(err error) error { return carried{statusOf(err)} }

func (c carried) Error() string {
	text, err := protojson.Marshal(c.status.Proto())
	if err != nil {
		return c.status.Message()
	}
	return string(text)
}

// uncarry returns the status that text carries, if it does.
func uncarry(text string) (*status.Status, bool) {
	if !strings.HasPrefix(text, "{") {
		return nil, false
	}
	var st spb.Status
	if err := protojson.Unmarshal([]byte(text), &st); err != nil {
		return nil, false
	}
	return status.FromProto(&st), true
}

// codec is JSON as the REST API speaks it.
type codec struct {
	runtime.JSONPb
	// bodies are the names of the request fields that bodies become, by
	// message; a message that is a whole request has none.
	bodies map[protoreflect.FullName]string
}

func newCodec() *codec {
	c := &codec{bodies: bodyFields()}
	// Plain fields are always there, so that scripts find a false or a zero;
	// messages and optional fields only when they are set.
	c.EmitDefaultValues = true
	return c
}

// NewDecoder reads a body of one message.
func (c *codec) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(into any) error {
		body, err := io.ReadAll(r)
		if err != nil {
			return carry(bodyError(err))
		}
		if len(bytes.TrimSpace(body)) == 0 {
			return io.EOF // an empty message, as the gateway knows
		}
		message, ok := into.(proto.Message)
		if !ok {
			message = allocate(into)
		}
		descriptor := message.ProtoReflect().Descriptor()
		if body, err = scan(body, descriptor, c.bodies[descriptor.FullName()]); err != nil {
			return carry(err)
		}
		if err := c.UnmarshalOptions.Unmarshal(body, message); err != nil {
			return carry(fail(codes.InvalidArgument, reasonBodyInvalid, "the body cannot be read: %w", err))
		}
		return nil
	})
}

// allocate makes the message of a request's field, to whose pointer the gateway
// points.
func allocate(pointer any) proto.Message {
	field := reflect.ValueOf(pointer).Elem()
	field.Set(reflect.New(field.Type().Elem()))
	return field.Interface().(proto.Message)
}

// bodyError says why a body could not be read.
func bodyError(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return tooLarge(large.Limit)
	}
	return fail(codes.InvalidArgument, reasonBodyInvalid, "read the body: %w", err)
}

func tooLarge(limit int64) error {
	return fail(codes.ResourceExhausted, reasonRequestTooLarge, "the request is larger than %d MiB", limit>>20)
}

// bodyFields reads from the services which request field a body is, by message.
func bodyFields() map[protoreflect.FullName]string {
	fields := map[protoreflect.FullName]string{}
	for _, file := range []protoreflect.FileDescriptor{
		tandemv1.File_tandem_v1_config_service_proto,
		tandemv1.File_tandem_v1_fleet_service_proto,
		tandemv1.File_tandem_v1_access_service_proto,
	} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				rule, _ := proto.GetExtension(methods.Get(j).Options(), annotations.E_Http).(*annotations.HttpRule)
				if field := methods.Get(j).Input().Fields().ByName(protoreflect.Name(rule.GetBody())); field != nil {
					fields[field.Message().FullName()] = string(field.Name())
				}
			}
		}
	}
	return fields
}

// queryParser reads query parameters as strictly as bodies are read.
type queryParser struct{ runtime.DefaultQueryParser }

// Parse puts values into message. filter holds the fields that the path or the
// body gives.
func (q *queryParser) Parse(message proto.Message, values url.Values, filter *utilities.DoubleArray) error {
	read := url.Values{}
	for key, given := range values {
		field := message.ProtoReflect().Descriptor().Fields().ByJSONName(key)
		if field == nil {
			field = message.ProtoReflect().Descriptor().Fields().ByTextName(key)
		}
		if field == nil {
			return carry(refuse(key, state.ReasonFieldUnknown,
				"is not a parameter here; the parameters are "+fieldNames(message.ProtoReflect().Descriptor())))
		}
		name, rule := string(field.Name()), ""
		switch {
		case filter.HasCommonPrefix([]string{name}):
			rule = "comes from the path or the body, not from the query"
		case read.Has(name) || len(given) != 1:
			rule = "is given twice"
		case field.Message() != nil && field.Message().FullName() == "google.protobuf.Duration":
			text, err := durationText(given[0])
			if err != nil {
				rule = durationRule
			}
			given = []string{text}
		}
		read[name] = given
		if rule == "" {
			if err := q.DefaultQueryParser.Parse(message, url.Values{name: given}, filter); err != nil {
				rule = err.Error()
			}
		}
		if rule != "" {
			return carry(refuse(key, state.ReasonFieldInvalid, rule))
		}
	}
	return nil
}

func refuse(field, reason, rule string) *state.Error {
	return &state.Error{
		Code: state.Invalid, Reason: reason, Message: "the request was refused",
		Violations: []state.Violation{{Field: field, Reason: reason, Message: rule}},
	}
}
