package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// imageCache keeps systems between runs; they may be removed at any time that
// no lab runs.
const imageCache = "/var/cache/tandem"

// imagePackages are what a load balancer has, beside Debian's essentials. There
// is no dbus, as on many servers.
var imagePackages = []string{"systemd", "systemd-sysv", "haproxy", "keepalived", "iproute2", "procps"}

// DebianImage returns a directory with the system that this machine runs, Debian
// or Ubuntu, fresh and with the packages of a load balancer. The first call takes
// more than a minute; then the cache has it, for this suite, mirror and list of
// packages.
func DebianImage(ctx context.Context) (string, error) {
	for tool, pkg := range map[string]string{"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", fmt.Errorf("%w: program %s is missing: install the package %s", ErrUnsupported, tool, pkg)
		}
	}
	suite, mirror, err := archive(ctx)
	if err != nil {
		return "", err
	}
	stamp := sha256.Sum256([]byte(mirror + " " + strings.Join(imagePackages, " ")))
	image := filepath.Join(imageCache, suite+"-"+hex.EncodeToString(stamp[:4]))
	if err := os.MkdirAll(imageCache, 0o755); err != nil {
		return "", err
	}
	// One of several labs makes it; the others wait.
	lock, err := os.OpenFile(image+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(image); err == nil {
		return image, nil
	}
	return image, makeImage(ctx, image, suite, mirror)
}

// makeImage gives the image its name when it is whole.
func makeImage(ctx context.Context, image, suite, mirror string) error {
	unfinished := image + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	_, err := output(ctx, "debootstrap", "--variant=minbase",
		"--include="+strings.Join(imagePackages, ","), suite, unfinished, mirror)
	if err != nil {
		return fmt.Errorf("make a system for machines: %w (see %s)", err, filepath.Join(unfinished, "debootstrap/debootstrap.log"))
	}
	// Each machine has an identity and a name of its own.
	return errors.Join(
		os.WriteFile(filepath.Join(unfinished, "etc/machine-id"), nil, 0o644),
		os.Remove(filepath.Join(unfinished, "etc/hostname")),
		os.Rename(unfinished, image),
	)
}

// archive returns the suite that this machine runs and the mirror that it has it
// from.
func archive(ctx context.Context) (suite, mirror string, err error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(release)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			suite = strings.Trim(value, `"`)
		}
	}
	targets, err := output(ctx, "apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)", "Created-By: Packages")
	if err != nil {
		return "", "", fmt.Errorf("%w: machines need Debian or Ubuntu: %w", ErrUnsupported, err)
	}
	lines := strings.Split(string(targets), "\n")
	i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, suite+" main ") })
	if suite == "" || i < 0 {
		return "", "", fmt.Errorf("%w: machines need Debian or Ubuntu: apt knows no mirror of %q", ErrUnsupported, suite)
	}
	return suite, strings.TrimPrefix(lines[i], suite+" main "), nil
}
