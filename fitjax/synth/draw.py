"""``draw``: one random portrait with its truth, a pure function of a model, a key and settings; `jit` and `vmap` it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fitjax.geometry.camera import Camera, project
from fitjax.geometry.rotation import rotation_from_aflw2000, safe_normalise
from fitjax.geometry.surface import vertex_normals
from fitjax.model.albedo import default_albedo
from fitjax.model.light_prior import light_from_code
from fitjax.model.linear import LinearModel
from fitjax.model.load import EMBEDDED, load_basis
from fitjax.model.occlusion import default_occlusion
from fitjax.model.params import Params
from fitjax.model.textured import face_maps
from fitjax.observation.part_tables import PARTS
from fitjax.prediction import to_camera
from fitjax.pytree import pytree
from fitjax.render.interpolate import fragments, interpolate
from fitjax.render.lighting import diffuse_shading, specular, srgb_from_linear
from fitjax.render.rasterize import rasterize
from fitjax.render.texture import sample_texture as _sample_texture
from fitjax.synth import occluders
from fitjax.synth.camera_effects import blur, once, quantise, smooth_noise
from fitjax.synth.settings import GLASSES, HAIR, OCCLUDER, SynthSettings, check_settings
from fitjax.train.generator import AlbedoGenerator, albedo_generator
from fitjax.train.texels import texels_of

#: Sets whose points are part of the truth.
POINT_SETS = ("aflw68", "ibug68", "mediapipe478")
#: Height of a mean face, metres; its middle in head space.
_FACE_METRES, _FACE_MIDDLE = 0.16, np.array([0.0, -0.01, 0.0])
_IRISES, _EAR = (468, 473), np.array([[-0.078, 0.03, -0.065], [0.078, 0.03, -0.065]])
#: Of what the light's second-order series may leave negative, this much stays.
_DARKEST = 0.03


@pytree
class SynthModel:
    """What portraits are drawn with.

    Attributes:
        shape: the shape model with :data:`POINT_SETS`. albedo: the generator of random albedo. face_map: (H, W) skin inside the face oval;
            detail_map: with eyes and mouth. occlusion: (H, W). bare: (V,) 1 where no hair grows.
    """

    shape: LinearModel
    albedo: AlbedoGenerator
    face_map: Float[Array, "H W"]
    detail_map: Float[Array, "H W"]
    occlusion: Float[Array, "H W"]
    bare: Float[Array, "V"]


@pytree
class Sample:
    """A portrait of S × S pixels and its truth; pixel centres at integers, OpenCV camera axes.

    Attributes:
        image: (S, S, 3) sRGB, 0 to 1. params: identity, expression, pose (camera from head), light (27,). albedo: controls of the generator.
        camera: intrinsics. pose: (3,) pitch, yaw, roll in degrees, AFLW2000-3D's convention.
        pixels, points: per set (N, 2) and (N, 3) camera space, metres. hidden: per set (N,) bool, behind the head itself or something in front of it.
        uv: (S, S, 2) texture coordinates of the head's surface there, whatever is in front; 0 outside ``head``.
        head: (S, S) bool. visible: (S, S) bool, the face (skin, eyes, mouth inside the oval) with nothing in front. depth: (S, S) metres, 0 outside.
        labels: (S, S) int32, see :data:`fitjax.synth.LABELS`.
    """

    image: Float[Array, "S S 3"]
    params: Params
    albedo: Float[Array, "D"]
    camera: Camera
    pose: Float[Array, "3"]
    pixels: dict[str, Float[Array, "N 2"]]
    points: dict[str, Float[Array, "N 3"]]
    hidden: dict[str, Bool[Array, "N"]]
    uv: Float[Array, "S S 2"]
    head: Bool[Array, "S S"]
    visible: Bool[Array, "S S"]
    depth: Float[Array, "S S"]
    labels: Int[Array, "S S"]


def sample_texture(texture: Array, uv: Array) -> Array:
    """The map's value at ``uv``, both computed once: XLA on a CPU would compute them anew for each of the four texels read, at twice the time of the
    whole portrait."""
    return once(_sample_texture(*once((texture, uv))))


def load_synth(height: int = 192, width: int = 224) -> SynthModel:
    """The embedded model with random albedo on maps of ``height`` × ``width`` texels."""
    shape = load_basis(EMBEDDED, 0, sample_sets=POINT_SETS)
    texels = texels_of(shape, height, width)
    generator = albedo_generator(default_albedo().at(jnp.asarray(texels.uv)), texels)
    skin, face = face_maps(shape)
    mean, region, triangles = np.asarray(shape.mean), np.asarray(shape.triangle_region), np.asarray(shape.triangles)
    bare = ((mean[:, 1] < 0.046) & (mean[:, 2] > -0.012)).astype(np.float32)
    bare[triangles[region != 0].reshape(-1)] = 1
    bare[mean[:, 1] < -0.105] = 1
    return SynthModel(shape, generator, *(jnp.asarray(x, jnp.float32) for x in (skin, face, default_occlusion(), bare)))


def _pose(key: Array, settings: SynthSettings) -> tuple[Array, dict[str, Array], Camera]:
    k = jax.random.split(key, 5)
    unit = jax.random.uniform(k[0], (3,), minval=-1, maxval=1)
    degrees = jnp.sign(unit) * jnp.abs(unit) ** settings.bend * jnp.array([settings.pitch, settings.yaw, settings.roll])
    rotation = rotation_from_aflw2000(jnp.radians(degrees))
    view = jnp.radians(jax.random.uniform(k[1], minval=settings.view_low, maxval=settings.view_high))
    size = settings.size
    focal = size / (2 * jnp.tan(view / 2))
    share = jax.random.uniform(k[2], minval=settings.share_low, maxval=settings.share_high)
    depth = _FACE_METRES * focal / (share * size)
    place = jax.random.uniform(k[3], (2,), minval=-1, maxval=1) * settings.jitter * size * depth / focal
    middle = jnp.concatenate([place, depth[None]])
    translation = middle - jnp.matmul(rotation, jnp.asarray(_FACE_MIDDLE, rotation.dtype), precision="highest")
    centre = jnp.full(2, (size - 1) / 2)
    camera = Camera(jnp.broadcast_to(focal, (2,)), centre, jnp.eye(2, 3))
    return degrees, {"rotation": rotation, "translation": translation}, camera


def _codes(key: Array, model: SynthModel, settings: SynthSettings) -> tuple[Array, Array, Array]:
    k = jax.random.split(key, 4)
    shape = model.shape
    active = jax.random.uniform(k[0], (shape.n_expression,)) < settings.expression * jax.random.uniform(k[1])
    amount = 0.85 * jax.random.uniform(k[2], (shape.n_expression,))
    low, high = shape.expression_lower, shape.expression_upper
    # Colours of light from different sides differ less than the prior of a fit allows.
    light = jax.random.normal(jax.random.fold_in(key, 1), (27,)) * jnp.asarray([1.0, 1, 1] + [1, 0.4, 0.25] * 8)
    return jax.random.normal(k[3], (shape.n_identity,)), jnp.where(active, low + amount * (high - low), jnp.clip(0, low, high)), light


def _background(key: Array, size: int) -> Array:
    """Plain, a gradient, or smooth noise of some fineness; linear light."""
    k = jax.random.split(key, 7)
    colours = occluders.random_colours(k[0], 2)
    angle = jax.random.uniform(k[1], maxval=2 * jnp.pi)
    at = occluders.grid(size) / size - 0.5
    ramp = jnp.clip(0.5 + at[..., 0] * jnp.cos(angle) + at[..., 1] * jnp.sin(angle), 0, 1)[..., None]
    noises = jnp.stack([smooth_noise(k[2 + i], size, cells, 3) for i, cells in enumerate((3, 7, 16))])
    share = jax.random.uniform(k[5], (3,)) ** 3
    mixed = jnp.tensordot(share / share.sum(), noises, 1) ** 2
    grey = mixed.mean(-1, keepdims=True)
    mixed = (grey + 0.25 * (mixed - grey)) * 2 * (0.3 + colours[1])
    kind = jax.random.randint(k[6], (), 0, 4)
    return jnp.where(kind == 0, colours[0], jnp.where(kind == 1, colours[0] + ramp * (colours[1] - colours[0]), mixed))


def _shoulders(key: Array, size: int, neck: Array, scale: Array) -> occluders.Layer:
    """A torso below the neck's end, behind the head; ``scale``: pixels per face height."""
    k = jax.random.split(key, 4)
    local = (occluders.grid(size) - neck) / scale
    half = 0.9 + 0.35 * jax.random.uniform(k[0])
    top = 0.12 * jnp.abs(local[..., 0]) + 0.9 * jax.nn.relu(jnp.abs(local[..., 0]) - half + 0.25) ** 2
    colours = occluders.random_colours(k[1], 2)
    folds = smooth_noise(k[2], size, 7, 1)
    return occluders.Layer((local[..., 1] > top - 0.18).astype(jnp.float32), colours[0] * (0.5 + folds))


def _over(image: Array, cover: Array, colour: Array) -> Array:
    return image + cover[..., None] * (colour - image)


def draw(model: SynthModel, key: Array, settings: SynthSettings) -> Sample:
    """One portrait. ``settings`` are structure: another value compiles anew, another key does not."""
    size, shape = settings.size, model.shape
    names = ("codes", "pose", "albedo", "hair", "colour", "glasses", "mask", "hand", "thing", "back", "light", "torso", "file", "chance", "order")
    k = dict(zip(names, jax.random.split(key, len(names))))
    identity, expression, light_code = _codes(k["codes"], model, settings)
    degrees, pose, camera = _pose(k["pose"], settings)
    controls, albedo = model.albedo.sample(k["albedo"])
    albedo = albedo.reshape(model.albedo.height, model.albedo.width, 3)
    geometry = {"identity": identity, "expression": expression}
    R, t = pose["rotation"], pose["translation"]
    chance = jax.random.uniform(k["chance"], (5,))
    has_hair, has_glasses, has_mask, has_hand, has_thing = chance < jnp.array(
        [settings.hair, settings.glasses, settings.mask, settings.hand, settings.thing]
    )

    # The head and its hair in one raster; hair is a second mesh around the first.
    head_points = shape.decode(geometry).vertices
    normals_head = vertex_normals(head_points, shape.triangles)
    thickness = jnp.where(has_hair, occluders.hair_shell(k["hair"], shape.mean, model.bare), 0.0)
    both = jnp.concatenate([head_points, head_points + thickness[:, None] * normals_head])
    space = to_camera(both, R, t)
    screen = jnp.concatenate([project(camera, space, t[2]), space[:, 2:]], 1)
    grown = (thickness[shape.triangles] > 0).all(1)
    hair_triangles = jnp.where(grown[:, None], shape.triangles + shape.n_vertices, 0)
    n = shape.n_vertices
    # The same raster with and without hair, as a batch of two: one program to compile.
    bald = jnp.concatenate([shape.triangles, jnp.zeros_like(shape.triangles)])
    meshes = jnp.stack([jnp.concatenate([shape.triangles, hair_triangles]), bald])
    ids, head_ids = rasterize(jnp.stack([screen, screen]), meshes, size, size)
    is_hair = ids >= shape.triangles.shape[0]
    surface = fragments(screen[:n], shape.triangles, head_ids)
    shell = fragments(screen[n:], shape.triangles, jnp.where(is_hair, ids - shape.triangles.shape[0], -1))
    normals = vertex_normals(space[:n], shape.triangles)
    at_pixel = interpolate(jnp.concatenate([normals, space[:n], shape.mean], 1), shape.triangles, surface)
    normal, position, on_mean = safe_normalise(at_pixel[..., :3]), at_pixel[..., 3:6], at_pixel[..., 6:]
    uv = interpolate(shape.uv, shape.uv_triangles, surface)
    head = head_ids >= 0

    # Light: what the prior allows, no darker than the shaded side of a room; a soft sheen.
    light = light_from_code(light_code)
    maps = sample_texture(jnp.stack([model.occlusion, model.detail_map], -1), uv)
    shading = jnp.maximum(diffuse_shading(normal, light), _DARKEST)
    skin = sample_texture(albedo, uv) * shading * maps[..., :1]
    kl = jax.random.split(k["light"], 3)
    towards = jnp.array([0.0, -0.4, -1.0]) + 0.8 * jax.random.normal(kl[0], (3,))
    strength = 0.05 * jax.random.uniform(kl[1]) ** 2 * jnp.ones(3)
    gloss = 8 + 40 * jax.random.uniform(kl[2])
    skin = skin + specular(normal, position, towards, strength, gloss) * shading
    masked = has_mask & head & occluders.lies_under_mask(k["mask"], on_mean)
    fabric = jnp.where(jax.random.bernoulli(k["mask"]), jnp.array([0.55, 0.65, 0.72]), occluders.random_colours(k["order"], 1)[0])
    folds = 1 - 0.12 * (jnp.sin(on_mean[..., 1] * 450) > 0.6)
    skin = jnp.where(masked[..., None], fabric * shading * folds[..., None], skin)

    hair_at = interpolate(jnp.concatenate([vertex_normals(space[n:], shape.triangles), shape.mean], 1), shape.triangles, shell)
    strands = jnp.sin(900 * hair_at[..., 3] + 8 * jnp.sin(60 * hair_at[..., 4]) + 300 * hair_at[..., 5])
    tufts = smooth_noise(k["colour"], size, 20, 1)[..., 0]
    hair_shading = jnp.maximum(diffuse_shading(safe_normalise(hair_at[..., :3]), light), _DARKEST)
    hair = occluders.hair_colour(k["colour"]) * hair_shading * (0.75 + 0.25 * strands + 0.5 * (tufts - 0.5))[..., None]

    # Behind.
    scale = _FACE_METRES * camera.focal[0] / t[2]
    picture = _background(k["back"], size)
    neck = project(camera, to_camera(jnp.array([[0.0, -0.13, -0.06]]), R, t), t[2])[0]
    torso = _shoulders(k["torso"], size, neck, scale)
    picture = _over(picture, torso.cover, torso.colour * light[0] * 0.28)
    picture = jnp.where(head[..., None], skin, picture)
    picture = jnp.where(is_hair[..., None], hair, picture)

    # In front.
    labels = _parts(model, uv, head)
    labels = jnp.where(masked, OCCLUDER, labels)
    labels = jnp.where(is_hair, HAIR, labels)
    (bare, with_glasses), worn = _glasses(k["glasses"], model, geometry, R, t, camera, surface.depth, picture)
    picture = jnp.where(has_glasses, with_glasses, bare)
    labels = jnp.where(has_glasses & worn, GLASSES, labels)
    middle = project(camera, to_camera(jnp.asarray(_FACE_MIDDLE, R.dtype)[None], R, t), t[2])[0]
    for made, has, name in ((occluders.hand, has_hand, "hand"), (occluders.thing, has_thing, "thing")):
        layer = made(k[name], size, middle, scale)
        cover = jnp.where(has, layer.cover, 0.0)
        picture = _over(picture, cover, layer.colour * light[0] * 0.28)
        labels = jnp.where(cover > 0.5, OCCLUDER, labels)
    in_front = (labels == HAIR) | (labels == GLASSES) | (labels == OCCLUDER)
    visible = head & (maps[..., 1] > 0.5) & ~in_front

    kf = jax.random.split(k["file"], 5)
    exposed = picture * jnp.exp(0.25 * jax.random.normal(kf[0]))
    # One in fifteen is black and white.
    luminance = jnp.matmul(exposed, jnp.array([0.2126, 0.7152, 0.0722]))[..., None]
    exposed = jnp.where(jax.random.uniform(jax.random.fold_in(kf[0], 1)) < 1 / 15, luminance, exposed)
    image = srgb_from_linear(jnp.clip(blur(exposed, 0.5 + (settings.blur - 0.5) * jax.random.uniform(kf[1]) ** 2), 0, 1))
    image = image + settings.noise * jax.random.uniform(kf[2]) ** 2 * jax.random.normal(kf[3], image.shape)
    quality = settings.quality + (96 - settings.quality) * jax.random.uniform(kf[4])
    image = quantise(jnp.clip(image, 0, 1), jnp.clip(quality, 1, 100))

    pixels, points, hidden = {}, {}, {}
    for name in shape.sample_sets:
        points[name] = to_camera(shape.decode_samples(geometry, name).position, R, t)
        pixels[name] = project(camera, points[name], t[2])
        hidden[name] = _hidden(pixels[name], points[name][:, 2], surface.depth, in_front)
    params = {**geometry, "pose": pose, "light": light_code}
    return Sample(image, params, controls, camera, degrees, pixels, points, hidden, uv, head, visible, surface.depth, labels)


def _parts(model: SynthModel, uv: Array, head: Array) -> Int[Array, "S S"]:
    """Labels 1 to 8 of the head's surface: the majority among the four texels around, as in :func:`fitjax.evaluate.parts.render_parts`."""
    votes = sample_texture(jax.nn.one_hot(model.shape.uv_parts, len(PARTS) + 1), uv)
    return jnp.where(head, jnp.argmax(votes, -1), 0).astype(jnp.int32)


def _hidden(pixels: Array, depth: Array, drawn: Array, in_front: Array) -> Bool[Array, "N"]:
    """Points that lie more than 6 mm behind the head's surface at their pixel, under something in front, or outside the picture."""
    size = drawn.shape[0]
    place = jnp.round(pixels).astype(jnp.int32)
    outside = ((place < 0) | (place >= size)).any(1)
    x, y = jnp.clip(place, 0, size - 1).T
    return outside | in_front[y, x] | ((drawn[y, x] > 0) & (depth > drawn[y, x] + 0.006))


def _glasses(
    key: Array, model: SynthModel, geometry: Params, R: Array, t: Array, camera: Camera, surface: Array, picture: Array
) -> tuple[tuple[Array, Array], Bool[Array, "S S"]]:
    """The picture without and with glasses, and the pixels of frame and lenses; what lies behind the head stays hidden."""
    k = jax.random.split(key, 4)
    size = picture.shape[0]
    eyes = model.shape.decode_samples(geometry, "mediapipe478").position[jnp.asarray(_IRISES)]
    rims, temples, half = occluders.glasses_points(k[0], eyes, jnp.asarray(_EAR, R.dtype))
    rims_camera, temples_camera = to_camera(rims, R, t), to_camera(temples, R, t)
    rims_image, temples_image = project(camera, rims_camera, t[2]), project(camera, temples_camera, t[2])
    at = occluders.grid(size)
    width = jnp.maximum(half * camera.focal[0] / t[2], 0.6)
    bridge = jnp.stack([rims_image[0, 0], rims_image[1, rims.shape[1] // 2]])
    bridge_depth = jnp.stack([rims_camera[0, 0, 2], rims_camera[1, rims.shape[1] // 2, 2]])
    starts = jnp.concatenate([rims_image.reshape(-1, 2), temples_image[:, 0], bridge[:1]])
    ends = jnp.concatenate([jnp.roll(rims_image, -1, 1).reshape(-1, 2), temples_image[:, 1], bridge[1:]])
    start_depth = jnp.concatenate([rims_camera[..., 2].reshape(-1), temples_camera[:, 0, 2], bridge_depth[:1]])
    end_depth = jnp.concatenate([jnp.roll(rims_camera[..., 2], -1, 1).reshape(-1), temples_camera[:, 1, 2], bridge_depth[1:]])
    distance, share = occluders.distance_to_segments(at, starts, ends)
    depth = start_depth + share * (end_depth - start_depth)
    nothing = surface[..., None] <= 0
    frame = ((distance < width) & (nothing | (depth < surface[..., None] + 0.004))).any(-1)
    lens_depth = rims_camera[..., 2].mean(1)
    lenses = [occluders.inside_polygon(at, rims_image[i]) & (nothing[..., 0] | (lens_depth[i] < surface + 0.012)) for i in (0, 1)]
    lens = lenses[0] | lenses[1]
    # Two in three are clear, with a reflection; the others are sunglasses.
    dark = jax.random.bernoulli(k[1], 0.35)
    tint = jnp.where(dark, 0.12 * jax.random.uniform(k[2], (3,)), jnp.array([0.93, 0.95, 0.95]))
    sheen = jnp.where(dark, 0.02, 0.06) * smooth_noise(k[3], size, 5, 1)
    shown = jnp.where(lens[..., None], picture * tint + sheen, picture)
    colour = jnp.where(jax.random.bernoulli(k[1], 0.6), jnp.full(3, 0.015), occluders.random_colours(k[2], 1)[0])
    shown = jnp.where(frame[..., None], colour, shown)
    return (picture, shown), frame | (lens & dark)


@partial(jax.jit, static_argnames=("count", "settings"))
def _batch(model: SynthModel, seed: Any, first: Any, count: int, settings: SynthSettings) -> Sample:
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(first + jnp.arange(count))
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda key: draw(model, key, settings), keys)
    return jax.vmap(lambda key: draw(model, key, settings))(keys)


def sample_batches(model: SynthModel, settings: SynthSettings, *, seed: int = 0, batch: int = 16, first: int = 0) -> Iterator[Sample]:
    """Endless batches; portrait ``i`` of a seed is the same whatever the batch size.

    Raises:
        FitjaxError: settings that cannot be drawn.
    """
    check_settings(settings)
    while True:
        yield _batch(model, seed, first, batch, settings)
        first += batch
