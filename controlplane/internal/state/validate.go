package state

import (
	"errors"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
)

// Validate checks a message against the field rules of its proto file. The
// error is an Invalid *Error whose field paths begin with prefix, if given.
// Values are never part of it: they may be secret.
func Validate(m proto.Message, prefix string) error {
	var vs violations
	if err := vs.validate(m, prefix); err != nil {
		return err
	}
	if err := vs.err(); err != nil {
		return err
	}
	return nil
}

// validate adds the field rules that m breaks. It fails only when the rules
// themselves are wrong.
func (vs *violations) validate(m proto.Message, prefix string) error {
	err := protovalidate.Validate(m)
	var broken *protovalidate.ValidationError
	if !errors.As(err, &broken) {
		return err
	}
	for _, v := range broken.Violations {
		field := protovalidate.FieldPathString(v.Proto.GetField())
		vs.add(Invalid, join(prefix, field), ReasonFieldInvalid, "%s", v.Proto.GetMessage())
	}
	return nil
}

// join joins two field paths.
func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "." + b
}
