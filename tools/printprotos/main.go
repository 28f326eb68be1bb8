// Command printprotos writes the .proto text of the third-party definitions
// that Tandem's API imports into the directory given as its only argument.
//
// The text is printed from the descriptors that are linked into the Go modules
// pinned in tools/go.mod, so that neither a schema registry nor a copy of other
// repositories is needed. Descriptors hold no comments; the licence notices
// beside the output are kept by hand.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv2/options"
	"github.com/jhump/protoreflect/v2/protoprint"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// roots are the files that proto/api may import.
var roots = []protoreflect.FileDescriptor{
	validate.File_buf_validate_validate_proto,
	annotations.File_google_api_annotations_proto,
	annotations.File_google_api_client_proto,
	annotations.File_google_api_field_behavior_proto,
	annotations.File_google_api_field_info_proto,
	annotations.File_google_api_resource_proto,
	errdetails.File_google_rpc_error_details_proto,
	status.File_google_rpc_status_proto,
	options.File_protoc_gen_openapiv2_options_annotations_proto,
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: printprotos DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "printprotos:", err)
		os.Exit(1)
	}
}

// run prints the roots and all that they import below dir.
func run(dir string) error {
	files := map[string]protoreflect.FileDescriptor{}
	for _, root := range roots {
		collect(root, files)
	}
	printer := protoprint.Printer{Compact: true}
	for path, file := range files {
		text, err := printer.PrintProtoToString(file)
		if err != nil {
			return fmt.Errorf("print %s: %w", path, err)
		}
		target := filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// collect adds file and its imports to files, except google/protobuf, which
// every compiler brings along.
func collect(file protoreflect.FileDescriptor, files map[string]protoreflect.FileDescriptor) {
	if strings.HasPrefix(file.Path(), "google/protobuf/") {
		return
	}
	files[file.Path()] = file
	for i := range file.Imports().Len() {
		collect(file.Imports().Get(i).FileDescriptor, files)
	}
}
