import inspect
from dataclasses import asdict

import pytest

from deepcnn import models
from deepcnn.config import Config
from deepcnn.recipes import RECIPES
from deepcnn.settings import flat, from_dict

# (classes, channels, side) of each data set, as published.
SHAPES = {"mnist": (10, 1, 28), "fashion-mnist": (10, 1, 28), "cifar10": (10, 3, 32)}

# What the texts print, line by line; what they leave out must be off.
TEXTS = {
    "alexnet-fashion-mnist": {  # texts 001 and 002
        "data.name": "fashion-mnist",
        "data.size": 224,  # load_data_fashion_mnist(batch_size, resize=224)
        "data.pixels": "unit",  # ToTensor
        "model.name": "alexnet-d2l",
        "model.init": "xavier",  # init.Xavier()
        "optim.lr": 0.01,
        "train.epochs": 5,
        "train.batch_size": 128,
        "train.drop_last": False,
    },
    "alexnet-cifar10": {  # text 000
        "data.name": "cifar10",
        "data.size": 224,  # mx.image.imresize(data, 224, 224)
        "data.pixels": "raw",  # data.astype(np.float32)
        "model.name": "alexnet-gluon",
        "model.init": "xavier-2.24",  # mx.init.Xavier(magnitude=2.24)
        "optim.lr": 0.001,
        "train.epochs": 1,
        "train.batch_size": 64,
        "train.drop_last": True,  # last_batch='discard'
    },
    "alexnet-slides": {  # text 004
        "data.name": "fashion-mnist",
        "data.size": 224,  # mu.load_data_fashion_mnist(batch_size, resize=224)
        "data.pixels": "unit",
        "model.name": "alexnet-slides",
        "model.init": "default",
        "optim.lr": 0.01,
        "train.epochs": 10,
        "train.batch_size": 256,
        "train.drop_last": False,
    },
}
PLAIN = {  # 'sgd', {'learning_rate': lr} and nothing else, in all three
    "data.validation": 0,
    "data.pad": 0,
    "augment.flip": "none",
    "augment.crop": 0,
    "optim.name": "sgd",
    "optim.momentum": 0.0,
    "optim.nesterov": False,
    "optim.weight_decay": 0.0,
    "optim.l1": 0.0,
    "optim.schedule": "constant",
    "optim.warmup": 0.0,
    "optim.clip_norm": 0.0,
    "train.accumulate": 1,
    "train.label_smoothing": 0.0,
    "train.ema": 0.0,
    "train.test_each_epoch": True,
}


@pytest.mark.parametrize("name", TEXTS)
def test_recipes_of_the_texts_have_the_numbers_of_the_texts(name: str) -> None:
    expected = TEXTS[name] | PLAIN
    values = flat(RECIPES[name]())
    assert {key: values[key] for key in expected} == expected
    rest = {key: value for key, value in values.items() if key not in expected}
    assert all(value == flat(Config())[key] for key, value in rest.items())


@pytest.mark.parametrize("name", ["lenet-mnist", "lenet-fashion-mnist"])
def test_lenet_sees_the_images_of_text_003(name: str) -> None:
    config = RECIPES[name]()
    assert config.model.name == "lenet"
    assert input_side(config) == 32  # "Gray scale image of size 32 x 32"


def test_the_two_lenets_differ_in_their_data_only() -> None:
    mnist, fashion = (flat(RECIPES[n]()) for n in ("lenet-mnist", "lenet-fashion-mnist"))
    assert {key for key in mnist if mnist[key] != fashion[key]} == {"data.name"}


def input_side(config: Config) -> int:
    return (config.data.size or SHAPES[config.data.name][2]) + 2 * config.data.pad


def test_the_sides_of_the_exercise_differ_in_network_and_rate_only() -> None:
    one, other = (flat(RECIPES[n]()) for n in ("lenet-sigmoid", "lenet-relu-dropout"))
    assert {key for key in one if one[key] != other[key]} == {"model.name", "optim.lr"}


@pytest.mark.parametrize("name", RECIPES)
def test_each_network_takes_the_images_of_its_recipe(name: str) -> None:
    config = RECIPES[name]()
    classes, channels, _ = SHAPES[config.data.name]
    models.check_input(config.model.name, classes, channels, input_side(config))
    models.check_initializer(config.model.init)


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_can_be_recorded_and_is_the_same_every_time(name: str) -> None:
    config = RECIPES[name]()
    assert from_dict(asdict(config), name) == config == RECIPES[name]()


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_introduces_itself(name: str) -> None:
    assert RECIPES[name].__name__ == name.replace("-", "_")
    summary, _, _ = inspect.cleandoc(RECIPES[name].__doc__ or "").partition("\n\n")
    assert summary.endswith(".")
    assert "\n" not in summary


@pytest.mark.parametrize("name", TEXTS)
def test_recipes_of_the_texts_list_what_departs(name: str) -> None:
    assert "Departs from the text: " in (RECIPES[name].__doc__ or "")
    assert "# departs: " in inspect.getsource(RECIPES[name])
