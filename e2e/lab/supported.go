package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// ErrUnsupported is wrapped by what Supported and Start return where labs
// cannot be made.
var ErrUnsupported = errors.New("no lab can be made here")

// Supported returns nil if this process may make labs, or an error that wraps
// ErrUnsupported and says why not and what would allow it.
func Supported(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: namespaces need root: run it as root or through sudo", ErrUnsupported)
	}
	for tool, pkg := range map[string]string{
		"ip": "iproute2", "nsenter": "util-linux", "mount": "mount", "bash": "bash", "sysctl": "procps", "nft": "nftables",
	} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: program %s is missing: install the package %s", ErrUnsupported, tool, pkg)
		}
	}
	// The same calls as startMachine's, on namespaces that end with the shell.
	try := exec.CommandContext(ctx, "bash", "-c", "mount --make-rprivate / && mount -t proc proc /proc && ip link add br0 type bridge")
	try.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS,
	}
	if _, err := capture(try); err != nil {
		return fmt.Errorf("%w: %w: in a container, start it with --privileged "+
			"(or with the capabilities SYS_ADMIN and NET_ADMIN and without seccomp and AppArmor confinement)", ErrUnsupported, err)
	}
	return nil
}
