package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"buf.build/go/protoyaml"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// WriteJSON writes the message as REST writes it, indented and in one piece.
func WriteJSON(w io.Writer, message proto.Message) error {
	data, err := marshalJSON(message)
	if err != nil {
		return err
	}
	// protojson varies its white space on purpose: write our own.
	var indented bytes.Buffer
	if err := json.Indent(&indented, data, "", "  "); err != nil {
		return err
	}
	indented.WriteByte('\n')
	return write(w, escapeControl(indented.Bytes()))
}

// WriteJSONLine writes the message as one line, for streams.
func WriteJSONLine(w io.Writer, message proto.Message) error {
	data, err := marshalJSON(message)
	if err != nil {
		return err
	}
	var line bytes.Buffer
	if err := json.Compact(&line, data); err != nil {
		return err
	}
	line.WriteByte('\n')
	return write(w, escapeControl(line.Bytes()))
}

// marshalJSON writes plain fields always, so that scripts find a false, a zero
// or an empty list; messages and optional fields only when they are set.
func marshalJSON(message proto.Message) ([]byte, error) {
	return protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(message)
}

// escapeControl writes the characters that a terminal may act on, and that
// JSON lets stand, as escapes: the same JSON value in safe bytes.
func escapeControl(data []byte) []byte {
	var out bytes.Buffer
	for _, r := range string(data) {
		if r >= 0x7f && r <= 0x9f {
			fmt.Fprintf(&out, `\u%04x`, r)
			continue
		}
		out.WriteRune(r)
	}
	return out.Bytes()
}

// WriteYAML writes the message with the names that configuration files use,
// without what is unset.
func WriteYAML(w io.Writer, message proto.Message) error {
	data, err := protoyaml.MarshalOptions{Indent: 2, UseProtoNames: true}.Marshal(message)
	if err != nil {
		return err
	}
	return write(w, data)
}

// WriteNames writes the full name of the message, or of each resource that it
// lists, one a line.
func WriteNames(w io.Writer, message proto.Message) error {
	var out bytes.Buffer
	for _, full := range Names(message) {
		fmt.Fprintln(&out, Clean(full))
	}
	return write(w, out.Bytes())
}

// Names returns the full name of the message, or of each resource in its
// lists.
func Names(message proto.Message) []string { return names(message.ProtoReflect()) }

func names(message protoreflect.Message) []string {
	if full := nameOf(message); full != "" {
		return []string{full}
	}
	var all []string
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !fd.IsList() || fd.Kind() != protoreflect.MessageKind {
			continue
		}
		list := message.Get(fd).List()
		for j := range list.Len() {
			all = append(all, names(list.Get(j).Message())...)
		}
	}
	return all
}

func nameOf(message protoreflect.Message) string {
	fd := message.Descriptor().Fields().ByName("name")
	if fd == nil || fd.Kind() != protoreflect.StringKind || fd.IsList() {
		return ""
	}
	return message.Get(fd).String()
}

func write(w io.Writer, data []byte) error {
	_, err := w.Write(data)
	return err
}
