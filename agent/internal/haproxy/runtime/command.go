package runtime

import (
	"fmt"
	"net/netip"

	"github.com/tandem-lb/tandem/agent/internal/haproxy/config"
)

// Command is one operation on one server.
type Command struct {
	key  config.Key
	text string
}

// String is the command as it is sent.
func (c Command) String() string { return c.text }

// check refuses a name that could be more than a name.
func (c Command) check() error {
	if !config.IsToken(c.key.Backend) || !config.IsToken(c.key.Name) {
		return fmt.Errorf("server %q: its name is not a token, so no command is sent", c.key)
	}
	return nil
}

// SetWeight sets the weight, 0 to 256.
func SetWeight(k config.Key, weight uint32) Command {
	return Command{k, fmt.Sprintf("set weight %s %d", k, weight)}
}

// SetMaxConnections limits connections; 0: no limit.
func SetMaxConnections(k config.Key, n uint32) Command {
	return Command{k, fmt.Sprintf("set maxconn server %s %d", k, n)}
}

// SetAddress moves the server.
func SetAddress(k config.Key, a netip.AddrPort) Command {
	return Command{k, fmt.Sprintf("set server %s addr %s port %d", k, a.Addr(), a.Port())}
}

// SetMaintenance stops traffic and checks, SetReady begins them again.
func SetMaintenance(k config.Key) Command {
	return Command{k, "set server " + k.String() + " state maint"}
}

// SetReady ends maintenance. HAProxy takes the server for healthy until a check
// fails.
func SetReady(k config.Key) Command {
	return Command{k, "set server " + k.String() + " state ready"}
}

// HoldBack keeps new traffic from a checked server until a check passes.
func HoldBack(k config.Key) Command {
	return Command{k, "set server " + k.String() + " health stopping"}
}

// EnableChecks begins the checks of an added server.
func EnableChecks(k config.Key) Command {
	return Command{k, "enable health " + k.String()}
}

// Add adds the server, in maintenance and with weight 0. check is how its
// backend checks, as config.File tells.
func Add(s config.Server, check string) Command {
	return Command{s.Key, "add server " + s.String() + " " + s.AddWords(check)}
}

// Delete removes a server in maintenance. HAProxy refuses while it has
// connections.
func Delete(k config.Key) Command {
	return Command{k, "del server " + k.String()}
}
