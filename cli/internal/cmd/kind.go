package cmd

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	"github.com/tandem-lb/tandem/cli/internal/fields"
	"github.com/tandem-lb/tandem/cli/internal/name"
	"github.com/tandem-lb/tandem/cli/internal/output"
	"github.com/tandem-lb/tandem/cli/internal/view"
)

// kind is what list, show and remove need to know of a kind of resource.
type kind struct {
	// noun and plural name it, example is the short name of one.
	noun, plural, example string
	// arg is how its name is called in usage lines.
	arg string
	// optional lets show do without a name: it is the cluster then.
	optional bool
	// full returns the full name for a typed one.
	full func(cluster, arg string) (string, error)
}

// resolve is full with the error as one of usage.
func (k kind) resolve(s *session, arg string) (string, error) {
	full, err := k.full(s.cluster, arg)
	return full, failure.Usage(err)
}

// list makes the command that lists all resources of a kind.
func list[Reply proto.Message](a *app, k kind, fetch func(context.Context, *session) (Reply, error), table func(Reply) output.Table) *cobra.Command {
	return &cobra.Command{
		Use:               "list",
		Aliases:           []string{"ls"},
		Short:             "List " + k.plural,
		Long:              fmt.Sprintf("List %s in order of their names.\n\"-o wide\" shows more, \"-o name\" full names.", k.plural),
		Example:           fmt.Sprintf("  lbctl %s list\n  lbctl %s list -o json", k.noun, k.noun),
		Args:              arguments(""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, s *session, _ []string) error {
			reply, err := fetch(ctx, s)
			if err != nil {
				return err
			}
			return s.print(reply, func() output.Table { return table(reply) })
		}),
	}
}

// show makes the command that shows one resource in full. complete completes
// its name.
func show[Resource proto.Message](a *app, k kind, complete cobra.CompletionFunc, get func(ctx context.Context, s *session, full string) (Resource, error)) *cobra.Command {
	arg := k.arg
	if k.optional {
		arg = "[" + arg + "]"
	}
	return &cobra.Command{
		Use:               "show " + arg,
		Short:             "Show a " + k.noun,
		Long:              fmt.Sprintf("Show all that is set of a %s, and what it inherits.", k.noun),
		Example:           fmt.Sprintf("  lbctl %s show %s\n  lbctl %s show %s -o yaml", k.noun, k.example, k.noun, k.example),
		Args:              arguments(arg),
		ValidArgsFunction: complete,
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := k.resolve(s, append(args, s.cluster)[0])
			if err != nil {
				return err
			}
			resource, err := get(ctx, s, full)
			if err != nil {
				return err
			}
			return s.print(resource, func() output.Table { return view.Detail(resource) })
		}),
	}
}

// remove makes the command that removes one resource. complete completes its
// name.
func remove(a *app, k kind, complete cobra.CompletionFunc, drop func(ctx context.Context, s *session, c *change, full string) error) *cobra.Command {
	var c change
	cmd := &cobra.Command{
		Use:               "remove " + k.arg,
		Aliases:           []string{"rm"},
		Short:             "Remove a " + k.noun,
		Long:              fmt.Sprintf("Remove a %s. One that others refer to is not removed.", k.noun),
		Example:           fmt.Sprintf("  lbctl %s remove %s", k.noun, k.example),
		Args:              arguments(k.arg),
		ValidArgsFunction: complete,
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			full, err := k.resolve(s, args[0])
			if err != nil {
				return err
			}
			return drop(ctx, s, &c, full)
		}),
	}
	c.bind(cmd)
	c.bindETag(cmd)
	return cmd
}

// page is a reply that holds one page of a list.
type page interface {
	proto.Message
	GetNextPageToken() string
}

// allPages merges the pages of a list into one reply.
func allPages[Reply page](fetch func(token string) (Reply, error)) (Reply, error) {
	all, err := fetch("")
	if err != nil {
		return all, err
	}
	for token := all.GetNextPageToken(); token != ""; {
		next, err := fetch(token)
		if err != nil {
			return all, err
		}
		proto.Merge(all, next)
		token = next.GetNextPageToken()
	}
	message := all.ProtoReflect()
	message.Clear(message.Descriptor().Fields().ByName(protoreflect.Name("next_page_token")))
	return all, nil
}

// changedFields applies what was typed to message and returns its mask.
func changedFields(set *fields.Set, message proto.Message) (*fieldmaskpb.FieldMask, error) {
	paths, err := set.Apply(message)
	if err != nil {
		return nil, failure.Usage(err)
	}
	return maskOf(paths)
}

// maskOf is an update mask. An empty one is a mistake in the command line: the
// API would take every field that is set.
func maskOf(paths []string) (*fieldmaskpb.FieldMask, error) {
	if len(paths) == 0 {
		return nil, failure.Usagef("nothing to change: give a flag, or --unset")
	}
	return &fieldmaskpb.FieldMask{Paths: paths}, nil
}

func nameOf(k name.Kind) func(cluster, arg string) (string, error) { return k.Full }
