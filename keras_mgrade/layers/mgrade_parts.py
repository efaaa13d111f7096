"""The parts of an mGRADE layer, made from its arguments."""

import keras

from keras_mgrade import initializers
from keras_mgrade.layers.delay_conv1d import DelayConv1D
from keras_mgrade.layers.min_gru import MinGRU

# The arguments that say what kind of taps the convolution has. Snapping
# changes them, in the convolution, and the layer reads them there.
TAPS = (
    "interpolation",
    "delay_regularizer",
    "width",
    "train_width",
    "normalize_kernel",
)


class MGradeParts:
    """Mixin for `MGrade`; comes before the Keras class."""

    def _check_switches(self):
        needs = {
            "convolution_on_input": ("use_convolution",),
            "convolution_norm": ("use_convolution", "normalization"),
            "recurrence_norm": ("use_recurrence", "normalization"),
            "recurrence_dense": ("use_recurrence",),
        }
        if self.normalization == "batch":
            # Elsewhere it would stand alone on the device, in front of a sum.
            needs["recurrence_norm"] += ("recurrence_dense",)
        for name, required in needs.items():
            for other in required:
                if getattr(self, name) and not getattr(self, other):
                    raise ValueError(
                        f"`{name}` needs `{other}`. Received: {name}=True, "
                        f"{other}={getattr(self, other)}"
                    )
        if not (self.use_convolution or self.use_recurrence):
            raise ValueError(
                "An MGrade layer needs its convolution, its recurrence or "
                "both. Received: use_convolution=False, use_recurrence=False"
            )

    def _check_expansion(self):
        """The width of the MLP."""
        width = self.expansion * self.units
        if round(width) < 1 or abs(width - round(width)) > 1e-6 * width:
            raise ValueError(
                "`expansion` must be a number whose product with `units`, the "
                f"width of the MLP, is whole and above 0, for units="
                f"{self.units}. Received: expansion={self.expansion!r}"
            )
        return round(width)

    def _make_convolution(self):
        self.encoder = None  # Made by `build`, where the widths differ.
        self.convolution = self.convolution_normalization = None
        if self.use_convolution:
            self.convolution = DelayConv1D(
                self.kernel_size,
                self.max_delay,
                **self._taps,
                use_bias=False,
                depthwise_initializer=self.depthwise_initializer,
                delay_initializer=self.delay_initializer,
                return_state=True,
                stateful=self.stateful,
                **self._shared(),
                name="convolution",
            )
            self.convolution_normalization = self._norm(
                "convolution_normalization",
                self.convolution_norm or self.normalization == "batch",
            )

    def _make_recurrence(self):
        self.recurrence = self.recurrence_output = None
        self.recurrence_dropout = self.recurrence_projection = None
        self.recurrence_normalization = None
        if not self.use_recurrence:
            return
        self.recurrence = MinGRU(
            self.units,
            activation=self.candidate_activation,
            recurrent_activation=self.recurrent_activation,
            kernel_initializer=initializers.clone(
                self.kernel_initializer, part=0
            ),
            gate_bias_initializer=self.gate_bias_initializer,
            return_sequences=True,
            return_state=True,
            stateful=self.stateful,
            **self._shared(),
            name="recurrence",
        )
        if self.output_activation is not keras.activations.linear:
            self.recurrence_output = keras.layers.Activation(
                self.output_activation,
                **self._shared(),
                name="recurrence_output",
            )
        if self.dropout:
            self.recurrence_dropout = keras.layers.Dropout(
                self.dropout,
                seed=self.seed,
                **self._shared(),
                name="recurrence_dropout",
            )
        if self.recurrence_dense:
            self.recurrence_projection = self._dense(
                "recurrence_projection", self.units, part=2
            )
        self.recurrence_normalization = self._norm(
            "recurrence_normalization", self.recurrence_norm
        )

    def _make_mlp(self):
        self.mlp_normalization = self._norm("mlp_normalization")
        self.mlp_expansion = self._dense(
            "mlp_expansion", self._hidden, self.activation
        )
        self.mlp_projection = self._dense("mlp_projection", self.units, part=3)
        self.output_normalization = self._norm(
            "output_normalization", self.normalization != "batch"
        )

    def _norm(self, name, wanted=True):
        if not wanted or self.normalization is None:
            return None
        if self.normalization == "batch":
            return keras.layers.BatchNormalization(**self._shared(), name=name)
        return keras.layers.LayerNormalization(**self._shared(), name=name)

    def _shared(self):
        return {"dtype": self.dtype_policy, "trainable": self.trainable}

    def _dense(self, name, width, activation=None, part=1):
        dense = keras.layers.Dense(
            width,
            activation=activation,
            kernel_initializer=initializers.clone(
                self.kernel_initializer, part
            ),
            **self._shared(),
            name=name,
        )
        # `model.quantize` goes to the parts: they refuse as the layer does.
        dense.quantize = self.quantize
        return dense

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(
                "MGrade needs to know its number of input channels. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: channels})
        if channels != self.units:
            self.encoder = self._dense("encoder", self.units, part=4)

        on_input = channels if self.convolution_on_input else self.units
        for part, width in (
            (self.encoder, channels),
            (self.convolution, on_input),
            (self.convolution_normalization, on_input),
            (self.recurrence, self.units),
            (self.recurrence_projection, self.units),
            (self.recurrence_normalization, self.units),
            (self.mlp_normalization, self.units),
            (self.mlp_expansion, self.units),
            (self.mlp_projection, self._hidden),
            (self.output_normalization, self.units),
        ):
            if part is not None:
                part.build((*input_shape[:-1], width))
