package keepalived

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/agent/internal/atomicfile"
)

// An interface may be deleted and made anew by the same name: a VLAN or a bond whose
// network manager restarts, the cable of a container. keepalived goes on with it as if it
// had only been down, and with sockets of the old one: it sends, and hears nothing any
// more (measured with 2.2.7), so that a standby takes the VIP beside its holder. It opens
// other sockets when it reads its file again.

// readLinks returns what an earlier agent has noted of the interfaces of the process that
// goes on. Without a file nothing is known of them.
func readLinks(path string) (links map[string]int, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &links)
	}
	if err != nil {
		return nil, fmt.Errorf("interfaces that keepalived has sockets on: %s: %w", path, err)
	}
	return links, nil
}

// setLinks notes them for the next agent as well.
func (o *observer) setLinks(links map[string]int) {
	if maps.Equal(o.links, links) {
		return
	}
	o.links = links
	data, err := json.Marshal(links)
	if err = errors.Join(err, atomicfile.WriteVolatile(o.noteLinks, data, 0o600)); err != nil {
		o.log.Warn("cannot note keepalived's interfaces for the next agent", "error", err)
	}
}

// linksOf returns the indexes of the interfaces of the instances; 0: there is none of that
// name. An error is that of the kernel's answer.
func linksOf(instances []watched) (map[string]int, error) {
	links := make(map[string]int)
	for n := range instances {
		for _, name := range []string{instances[n].iface, instances[n].over} {
			if _, known := links[name]; known {
				continue
			}
			on, err := linkOf(name)
			if err != nil {
				return nil, err
			}
			links[name] = 0
			if on != nil {
				links[name] = on.Attrs().Index
			}
		}
	}
	return links, nil
}

// bind notes the interfaces that keepalived has opened its sockets on. anew: it has just
// opened all of them; else those that it had stay.
func (o *observer) bind(anew bool) {
	now, err := linksOf(o.watched)
	if err != nil {
		o.log.Warn("cannot tell what interfaces there are", "error", err)
		return
	}
	for name, index := range o.links {
		if _, ok := now[name]; ok && index != 0 && !anew {
			now[name] = index
		}
	}
	o.setLinks(now)
}

// remade returns the interfaces that are others now than those that keepalived has its
// sockets on, in order of their names.
func (o *observer) remade() (names []string) {
	now, err := linksOf(o.watched)
	if err != nil {
		o.log.Warn("cannot tell what interfaces there are", "error", err)
		return nil
	}
	links := make(map[string]int)
	maps.Copy(links, o.links)
	for name, index := range now {
		switch was := o.links[name]; {
		case was == 0: // there was none when keepalived began
			links[name] = index
		case index != 0 && was != index:
			names = append(names, name)
		}
	}
	o.setLinks(links)
	slices.Sort(names)
	return names
}

// link takes a change of an interface.
func (o *observer) link(u netlink.LinkUpdate) {
	on := u.Attrs()
	if was := o.links[on.Name]; u.Header.Type == unix.RTM_NEWLINK && was != 0 && was != on.Index {
		o.wake()
	}
}

// rebind has keepalived open other sockets where it has some of an interface that is no
// more.
func (d *Driver) rebind(ctx context.Context, c *control) error {
	var names []string
	if err := d.do(ctx, func(o *observer) { names = o.remade() }); err != nil || len(names) == 0 {
		return err
	}
	text := fmt.Sprintf("keepalived is told again, since it hears nothing on an interface that was made anew: %s", strings.Join(names, ", "))
	d.log.Warn(text)
	if err := d.do(ctx, func(o *observer) { o.notes = append(o.notes, text) }); err != nil {
		return err
	}
	if err := c.intent.awaitLinkLocal(ctx); err != nil {
		d.log.Warn("keepalived may advertise nothing by IPv6", "error", err)
	}
	if err := d.reload(ctx, c, d.answer); err != nil {
		return err
	}
	return d.do(ctx, func(o *observer) { o.bind(true) })
}
