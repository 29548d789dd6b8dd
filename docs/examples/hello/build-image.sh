#!/bin/sh
# Makes the image that ployz.toml names, without a registry: a busybox web server on port 8080 whose page says its version.
#
#   build-image.sh [VERSION…]      v1 and v2 if none is named; the images are ployz-demo:VERSION
set -eu
[ $# -gt 0 ] || set -- v1 v2

busybox=$(command -v busybox) || { echo "build-image: busybox is missing (Debian: busybox-static)" >&2; exit 1; }
# The image holds nothing else, not even a dynamic linker.
if [ "$("$busybox" --list | grep -cx httpd)" = 0 ] || ldd "$busybox" >/dev/null 2>&1; then
    echo "build-image: $busybox has no httpd or is not static (Debian: busybox-static)" >&2
    exit 1
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/tmp" "$root/www"
chmod 755 "$root"
cp "$busybox" "$root/bin/busybox"
for applet in sh httpd ls cat wget sleep; do ln -s busybox "$root/bin/$applet"; done
echo ok >"$root/www/healthz"
# The first process of a container is not ended by a signal that it does not handle, and httpd handles none.
cat >"$root/serve" <<'SERVE'
httpd -f -p 8080 -h /www &
trap 'kill $!' TERM INT
wait
SERVE

for version; do
    echo "hello from $version" >"$root/www/index.html"
    tar -C "$root" --owner=0 --group=0 -cf - . | docker import \
        --change 'CMD ["/bin/sh", "/serve"]' \
        --message "ployz example, $version" - "ployz-demo:$version" >/dev/null
    echo "built ployz-demo:$version"
done
