// Package output writes what lbctl has to show: tables for people, and the
// API's own messages for scripts.
package output

import (
	"fmt"
	"slices"
	"strings"
)

// Format is how data is written. It is a flag value.
type Format string

// The formats that -o takes.
const (
	// FormatTable is for people.
	FormatTable Format = "table"
	// FormatWide is FormatTable with all columns.
	FormatWide Format = "wide"
	// FormatJSON is exactly the API's message, as REST writes it.
	FormatJSON Format = "json"
	// FormatYAML is the message with the field names of configuration files.
	FormatYAML Format = "yaml"
	// FormatName is full resource names, one a line.
	FormatName Format = "name"
)

// Formats lists what -o takes.
var Formats = []string{"table", "wide", "json", "yaml", "name"}

// String returns the word that selects the format.
func (f *Format) String() string { return string(*f) }

// Type is what help calls the flag's value.
func (f *Format) Type() string { return "table|wide|json|yaml|name" }

// Set selects the format by its word.
func (f *Format) Set(word string) error {
	if !slices.Contains(Formats, word) {
		return fmt.Errorf("must be one of %s", strings.Join(Formats, ", "))
	}
	*f = Format(word)
	return nil
}
