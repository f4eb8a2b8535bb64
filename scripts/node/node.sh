#!/bin/bash
# One node of a throw-away Kubernetes cluster, in namespaces of its own: everything it starts, mounts and links is gone
# when its first process is gone. Started by `scripts/cluster up --here`, as root, with the variables below.
#
#   node.sh            joins the node's cgroup, makes the namespaces, and leaves a link to the network's
#   node.sh inside     is the first process of the node: it starts the parts, and starts again what ends
set -euo pipefail
: "${STATE:?the folder of the cluster}" "${NODE:?its name}" "${NUMBER:?1 for the node with the control plane}"
: "${PROGRAMS:?the folder of the programs}" "${STORE:?the folder of containerd}" "${CGROUP:?of the node, below each hierarchy}"
: "${HIERARCHIES:?the mounted cgroup hierarchies}"
NETWORK=172.30.0
ADDRESS=$NETWORK.$((NUMBER + 1))
PODS=10.244
SERVICES=10.96
FOLDER=$STATE/$NODE

if [ "${1:-}" != inside ]; then
    for hierarchy in $HIERARCHIES; do
        echo $$ >"$hierarchy/$CGROUP/system/cgroup.procs"
    done
    mkdir -p "$FOLDER"
    rm -f "$FOLDER"/{stopping,containerd.sock}
    setsid unshare --mount --pid --net --uts --ipc --fork --kill-child --mount-proc --propagation private \
        bash "$0" inside >>"$FOLDER/node.log" 2>&1 </dev/null &
    until first=$(pgrep --parent $!); do
        kill -0 $!
        sleep 0.05
    done
    ln -sfn "/proc/$first/ns/net" "$FOLDER/network"
    exit
fi

# At the end the containers go with their file systems, so that what stays in the store is images alone.
stop() {
    touch "$FOLDER/stopping"
    pkill -KILL -x kubernetes || true
    pkill -KILL -x kube-router || true
    local ctr="ctr --address $FOLDER/containerd.sock --namespace k8s.io"
    for container in $($ctr containers list --quiet); do
        $ctr tasks delete --force "$container" || true
        $ctr containers delete "$container" || true
    done
    exit 0
}
trap stop TERM

# What the parts write outside their own folders goes where it is thrown away with the node: locks and namespaces in /run,
# logs and the network's notes in /var. The machine's own are out of sight.
mount --make-rshared /
mkdir -p "$FOLDER"/{tmp,kubelet,etcd,conf,var/log,var/lib,var/tmp}
for shared in "$STATE" "$STORE"; do
    if [[ $shared == /var/* ]]; then
        mkdir -p "$FOLDER$shared"
        mount --rbind "$shared" "$FOLDER$shared"
    fi
done
mount --rbind "$FOLDER/var" /var
mount -t tmpfs tmpfs /run
mkdir -p /run/lock
ln -sfn /run /var/run
export TMPDIR=$FOLDER/tmp PATH=$PROGRAMS:$PATH
hostname "$NODE"

# kubelet sets these for the whole machine. Here it reads what it wants, and leaves the machine's as they are.
constant() {
    echo "$2" >"/run/sysctl-${1//\//-}"
    mount --bind "/run/sysctl-${1//\//-}" "/proc/sys/$1"
}
constant vm/overcommit_memory 1
constant vm/panic_on_oom 0
constant kernel/panic 10
constant kernel/panic_on_oops 1
constant kernel/keys/root_maxkeys 1000000
constant kernel/keys/root_maxbytes 25000000

# A bridge with the node's address, and a default route into it: kube-proxy wants one, and it leads nowhere.
ip link set lo up
ip link add nodes type bridge
ip address add "$ADDRESS/24" dev nodes
ip link set nodes up
ip route add default dev nodes
sysctl --quiet --write net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1

# It runs a part, and runs it again a second after it ended, as systemd would.
keep() {
    local name=$1
    shift
    until [ -e "$FOLDER/stopping" ]; do
        "$@" >>"/var/log/$name.log" 2>&1 || true
        sleep 1
    done &
}

# It waits until a port of this network answers.
port() {
    until (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; do
        sleep 0.2
    done
}

control_plane() {
    local pki=$STATE/pki
    keep etcd kubernetes etcd --data-dir "$FOLDER/etcd"
    port 127.0.0.1 2379
    keep apiserver kubernetes kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
        --advertise-address="$ADDRESS" --bind-address=0.0.0.0 --secure-port=6443 \
        --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
        --service-account-key-file="$pki/accounts.pub" --service-account-signing-key-file="$pki/accounts.key" \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local \
        --service-cluster-ip-range="$SERVICES.0.0/16" --authorization-mode=Node,RBAC \
        --enable-admission-plugins=NodeRestriction --allow-privileged \
        --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" \
        --kubelet-preferred-address-types=InternalIP
    port "$ADDRESS" 6443
    keep manager kubernetes kube-controller-manager --kubeconfig="$pki/manager.conf" \
        --authentication-kubeconfig="$pki/manager.conf" --authorization-kubeconfig="$pki/manager.conf" \
        --service-account-private-key-file="$pki/accounts.key" --root-ca-file="$pki/ca.crt" \
        --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
        --use-service-account-credentials --leader-elect=false --controllers='*'
    keep scheduler kubernetes kube-scheduler --kubeconfig="$pki/scheduler.conf" \
        --authentication-kubeconfig="$pki/scheduler.conf" --authorization-kubeconfig="$pki/scheduler.conf" \
        --leader-elect=false
    keep volumes kubernetes volumes --kubeconfig="$pki/admin.conf" --folder="$STATE/volumes"
}

cat >"$FOLDER/conf/10-pods.conflist" <<END
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "pods", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$PODS.$NUMBER.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}},
  {"type": "loopback"}]}
END
cat >"$FOLDER/conf/containerd.toml" <<END
version = 3
root = "$STORE"
state = "/run/containerd"
[grpc]
address = "$FOLDER/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = 'localhost/pause:1'
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true # a machine that lets nobody lower a score is served too
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "$FOLDER/conf"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "/usr/sbin/runc" # crun refuses cgroups of version 1 beside version 2
SystemdCgroup = false
END
echo nameserver 127.0.0.1 >"$FOLDER/conf/resolv.conf"
cat >"$FOLDER/conf/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $STATE/pki/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
failCgroupV1: false
failSwapOn: false
clusterDNS: [$SERVICES.0.10]
clusterDomain: cluster.local
resolvConf: $FOLDER/conf/resolv.conf
containerRuntimeEndpoint: unix://$FOLDER/containerd.sock
tlsCertFile: $STATE/pki/$NODE.crt
tlsPrivateKeyFile: $STATE/pki/$NODE.key
# The disk is the machine's: what else fills it is no reason to delete images or to evict.
evictionHard: {memory.available: 200Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 100
END
cat >"$FOLDER/conf/proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $STATE/pki/proxy.conf}
mode: iptables
clusterCIDR: $PODS.0.0/16
hostnameOverride: $NODE
conntrack: {maxPerCore: 0} # the limit is the machine's
END

keep containerd containerd --config "$FOLDER/conf/containerd.toml"
[ "$NUMBER" != 1 ] || control_plane
port "$NETWORK.2" 6443
until [ -S "$FOLDER/containerd.sock" ]; do sleep 0.2; done
keep kubelet kubernetes kubelet --config="$FOLDER/conf/kubelet.yaml" --kubeconfig="$STATE/pki/$NODE.conf" \
    --root-dir="$FOLDER/kubelet" --hostname-override="$NODE" --node-ip="$ADDRESS" --v=1
keep proxy kubernetes kube-proxy --config="$FOLDER/conf/proxy.yaml"
keep policies kube-router --kubeconfig="$STATE/pki/router.conf" --hostname-override="$NODE" \
    --run-firewall=true --run-router=false --run-service-proxy=false --service-cluster-ip-range="$SERVICES.0.0/16"

# The first process of a node takes the orphans, and lasts until it is told to stop.
while :; do
    sleep infinity &
    wait $! || true
done
